/** Writing pictures and clips: the extension says how. */

import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { badArgument } from '@attune/engine';

import { staged } from '../output.ts';
import { badOutput, noFrames } from './errors.ts';
import { assertFfmpeg, writeWithFfmpeg } from './ffmpeg.ts';
import { checkFps, checkFrame, type Frame, type Frames, resample } from './frame.ts';
import { encodeMp4, evenSize } from './mp4-write.ts';
import type { Notes } from './notes.ts';
import { type VideoTools, videoTools } from './peers.ts';
import { encodeAnimation, encodeStill } from './picture.ts';
import type { Sound } from './sound.ts';
import { assertWritable, outputFormat } from './stage.ts';

export interface WriteOptions {
  /** Frames per second, in place of the frames' own delays. */
  readonly fps?: number;
  /** How long each frame is shown, in ms, in place of the frames' own delays. */
  readonly delays?: readonly number[];
  /** Settings and seeds kept inside the file: PNG text, EXIF (jpg, webp), a GIF comment, an mp4 comment. */
  readonly metadata?: Notes;
  /** Files and folders that were read: `path` may be none of them. */
  readonly inputs?: readonly string[];
  /** Sound for an mp4: copied as it is, from the first frame on and as long as the frames last. */
  readonly sound?: Sound | undefined;
  readonly tools?: VideoTools;
}

/** What stands on the disk now. */
export interface Written {
  readonly path: string;
  readonly frames: number;
  readonly width: number;
  readonly height: number;
  /** What had to differ from what was asked, for people to read. */
  readonly notices: readonly string[];
}

/**
 * Refuses at once what `writeMedia` could not write: what `assertWritable` refuses, a clip as a still, an
 * mp4 where nothing here encodes it. Throws BAD_OUTPUT, PEER_MISSING.
 */
export async function checkOutput(
  path: string,
  { clip, inputs = [], tools = videoTools }: { clip: boolean } & WriteOptions,
): Promise<void> {
  assertWritable(path, inputs);
  const format = outputFormat(path);
  if (clip && (format === 'png' || format === 'jpeg')) throw notStill(path);
  if (format !== 'mp4') return;
  const peers = await tools.peers();
  if (typeof peers === 'string') await assertFfmpeg(path, tools.ffmpeg, peers);
}

const notStill = (path: string) =>
  badOutput(path, 'a clip does not fit into a still', 'use .mp4, .gif, .webp or a folder');

/**
 * Writes frames of one size as .mp4 (H.264; odd sizes grow by a row or column), .gif, .webp
 * (lossless), a still .png, .webp or .jpg, or a folder of png frames; all or nothing. mp4 and
 * folders take a stream of any length, gif and webp hold their frames in memory. Throws what
 * `assertWritable` throws, NO_FRAMES, BAD_ARGUMENT, PEER_MISSING, MEDIA_TOO_BIG, WRITE_FAILED.
 */
export async function writeMedia(
  path: string,
  frames: Frames,
  options: WriteOptions = {},
): Promise<Written> {
  const { metadata = {}, inputs = [], tools = videoTools, sound } = options;
  const format = outputFormat(path);
  assertWritable(path, inputs);
  const tally: Tally = { frames: 0, width: 0, height: 0 };
  const notices: string[] = [];
  if (sound && format !== 'mp4')
    notices.push(`${path}: only an mp4 holds sound; the sound track is left out`);
  const timed = counted(path, retimed(frames, options), tally);
  await staged(path, async (temp) => {
    if (format === 'folder') await writeFolder(temp, timed, metadata);
    else if (format === 'mp4')
      notices.push(...(await writeMp4(path, temp, timed, metadata, tools, sound)));
    else if (format === 'gif') await writeFile(temp, await animation(path, timed, 'gif', metadata));
    else if (format === 'webp') await writeFile(temp, await webp(path, timed, metadata));
    else await writeFile(temp, await encodeStill(await only(path, timed), format, metadata));
  });
  return { path, ...tally, notices };
}

interface Tally {
  frames: number;
  width: number;
  height: number;
}

async function* retimed(
  frames: Frames,
  { fps, delays }: WriteOptions,
): AsyncGenerator<Frame, void, undefined> {
  if (fps !== undefined) checkFps('writeMedia', fps);
  let i = 0;
  for await (const frame of frames) {
    const delay = fps === undefined ? (delays?.[i] ?? frame.delay) : 1000 / fps;
    if (!(delay >= 0 && delay < Infinity))
      throw badArgument('writeMedia', `frame ${i} lasts ${delay} ms`, 'give a finite time');
    yield { ...frame, delay };
    i++;
  }
  if (delays && fps === undefined && delays.length !== i)
    throw badArgument('writeMedia', `${delays.length} delays for ${i} frames`, 'give one each');
}

async function* counted(path: string, frames: Frames, tally: Tally): AsyncGenerator<Frame> {
  let first: Frame | undefined;
  for await (const frame of frames) {
    checkFrame(path, frame, (first ??= frame));
    tally.frames++;
    tally.width = frame.width;
    tally.height = frame.height;
    yield frame;
  }
  if (!first) throw noFrames(path, 'to write');
}

/** Stills shown in a clip, and frames without a time, last this long: ms. */
const DEFAULT_DELAY = 125;

async function* moving(frames: Frames): AsyncGenerator<Frame> {
  for await (const frame of frames)
    yield frame.delay > 0 ? frame : { ...frame, delay: DEFAULT_DELAY };
}

async function collect(frames: Frames): Promise<Frame[]> {
  const all: Frame[] = [];
  for await (const frame of frames) all.push(frame);
  return all;
}

const animation = async (path: string, frames: Frames, format: 'gif' | 'webp', notes: Notes) =>
  encodeAnimation(path, await collect(moving(frames)), format, notes);

async function webp(path: string, frames: Frames, notes: Notes): Promise<Uint8Array> {
  const all = await collect(frames);
  return all.length === 1
    ? encodeStill(all[0], 'webp', notes)
    : animation(path, all, 'webp', notes);
}

async function only(path: string, frames: Frames): Promise<Frame> {
  let single: Frame | undefined;
  for await (const frame of frames) {
    if (single) throw notStill(path);
    single = frame;
  }
  if (!single) throw noFrames(path, 'to write');
  return single;
}

/** frame-00001.png and so on; each carries the notes. */
async function writeFolder(temp: string, frames: Frames, notes: Notes): Promise<void> {
  await mkdir(temp);
  let number = 0;
  for await (const frame of frames) {
    const name = `frame-${String(++number).padStart(5, '0')}.png`;
    await writeFile(join(temp, name), await encodeStill(frame, 'png', notes));
  }
}

async function writeMp4(
  path: string,
  temp: string,
  frames: Frames,
  notes: Notes,
  tools: VideoTools,
  sound: Sound | undefined,
): Promise<string[]> {
  const notices: string[] = [];
  const peers = await tools.peers();
  const [first, all] = await peek(moving(frames));
  if (!first) throw noFrames(path, 'to write');
  const even = evenSize(first);
  if (even.width !== first.width || even.height !== first.height)
    notices.push(
      `${path}: H.264 wants even sizes; ${first.width}×${first.height} became ${even.width}×${even.height}`,
    );
  if (typeof peers !== 'string') {
    await writeFile(temp, await encodeMp4(all, peers, notes, { sound, notices }));
    return notices;
  }
  const fps = 1000 / first.delay;
  await writeWithFfmpeg(temp, resample(all, fps), fps, tools.ffmpeg, notes, peers);
  notices.push(
    `${path}: written by ffmpeg at ${Number(fps.toFixed(3))} frames a second (${peers})${sound ? '; the sound track is left out' : ''}`,
  );
  return notices;
}

/** The first item, and the whole again. */
async function peek<T>(items: AsyncGenerator<T>): Promise<[T | undefined, AsyncIterable<T>]> {
  const { value, done } = await items.next();
  if (done) return [undefined, items];
  const whole = async function* () {
    try {
      yield value;
      yield* items;
    } finally {
      await items.return(undefined);
    }
  };
  return [value, whole()];
}
