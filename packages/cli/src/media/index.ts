/** Pictures and clips: the only door through which the command line touches them. */

export { enlarge, sideBySide, type SideBySideOptions } from './compare.ts';
export { columnsOf, fitFrame, fitFrames, toFrames } from './fit.ts';
export { type Frame, type Frames, fpsOf, resample } from './frame.ts';
export type { Notes } from './notes.ts';
export { readNotes } from './notes-read.ts';
export { type Media, openMedia, type OpenOptions, readMedia, type ReadOptions } from './open.ts';
export { loadPeers, type VideoTools, videoTools } from './peers.ts';
export type { Sound } from './sound.ts';
export type { MediaSource } from './source.ts';
export { checkOutput, writeMedia, type WriteOptions, type Written } from './write.ts';
