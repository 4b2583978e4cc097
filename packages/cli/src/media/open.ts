/** Opening and reading any picture or clip: looks at the bytes, then picks the reader. */

import { open, readFile, stat } from 'node:fs/promises';

import { AttuneError, badArgument } from '@attune/engine';

import { badMedia, missingMedia, noFrames, reasonOf, tooBig, unknownMedia } from './errors.ts';
import { openWithFfmpeg } from './ffmpeg.ts';
import { fitFrame } from './fit.ts';
import { openFolder } from './folder.ts';
import type { Frame } from './frame.ts';
import { openMp4 } from './mp4-read.ts';
import { type VideoTools, videoTools } from './peers.ts';
import { openPicture } from './picture.ts';
import { pictureFormat, videoFormat } from './sniff.ts';
import { MAX_FILE, type MediaSource } from './source.ts';

export interface OpenOptions {
  /** Frames per second of a folder (default 8); other formats know their own. */
  readonly fps?: number;
  readonly tools?: VideoTools;
}

export interface ReadOptions extends OpenOptions {
  /** Stop after this many frames. */
  readonly maxFrames?: number;
  /** Scale and centre-crop each frame to this size as it arrives, so that long clips stay small. */
  readonly fit?: { readonly width: number; readonly height: number };
}

/** A whole picture or clip in memory. */
export interface Media {
  readonly source: MediaSource;
  readonly kind: 'image' | 'clip';
  /** At least one, all of `width` × `height`. */
  readonly frames: readonly Frame[];
  readonly width: number;
  readonly height: number;
  /** Mean frames per second of the source; 0 for an image. */
  readonly fps: number;
  /** `maxFrames` left some out. */
  readonly cut: boolean;
}

/** Frames that `readMedia` may hold, in bytes. */
const MAX_HELD = 2 ** 32;

/**
 * Opens png, jpg, webp, gif, mp4, a folder of frames, and whatever ffmpeg reads. Says what it is;
 * its `frames()` decodes a few at a time, so length does not matter. Throws MISSING_FILE, BAD_FILE,
 * UNSUPPORTED_MEDIA, NO_FRAMES, MEDIA_TOO_BIG, PEER_MISSING.
 */
export async function openMedia(path: string, options: OpenOptions = {}): Promise<MediaSource> {
  const { tools = videoTools } = options;
  const about = await look(path, () => stat(path));
  if (about.isDirectory()) return openFolder(path, options.fps);
  if (!about.isFile()) throw missingMedia(path, 'neither a file nor a folder');
  if (about.size === 0) throw badMedia(path, 'the file is empty');
  const head = await look(path, () => readHead(path));
  const picture = pictureFormat(head);
  if (picture) {
    if (about.size > MAX_FILE) throw tooBig(path, `${about.size} bytes`, 'the limit is 1 GiB');
    return openPicture(path, await look(path, () => readFile(path)), picture);
  }
  const video = videoFormat(head);
  if (!video) throw unknownMedia(path);
  let why = 'only ffmpeg reads this kind of video';
  if (video === 'mp4') {
    const peers = await tools.peers();
    const opened = typeof peers === 'string' ? peers : await openMp4(path, peers);
    if (typeof opened !== 'string') return opened;
    why = opened;
  }
  return openWithFfmpeg(path, tools.ffmpeg, why);
}

/** Reads the frames into memory: all of them, or `maxFrames`. Throws what `openMedia` throws; MEDIA_TOO_BIG above 4 GiB. */
export async function readMedia(path: string, options: ReadOptions = {}): Promise<Media> {
  const { maxFrames = Infinity, fit } = options;
  if (!(maxFrames >= 1)) throw badArgument('readMedia', `maxFrames ${maxFrames}`, 'give 1 or more');
  const source = await openMedia(path, options);
  const { width, height } = fit ?? source;
  const frames: Frame[] = [];
  let held = 0;
  let cut = false;
  for await (const frame of source.frames()) {
    if (frames.length >= maxFrames) {
      cut = true;
      break;
    }
    held += width * height * 3;
    if (held > MAX_HELD)
      throw tooBig(
        path,
        `over 4 GiB of frames at ${width}×${height}`,
        'read fewer or smaller ones',
      );
    frames.push(fit ? await fitFrame(frame, width, height) : frame);
  }
  if (frames.length === 0) throw noFrames(path, 'inside');
  return { source, kind: source.kind, frames, width, height, fps: source.fps, cut };
}

async function readHead(path: string): Promise<Uint8Array> {
  const file = await open(path, 'r');
  try {
    const head = new Uint8Array(512);
    const { bytesRead } = await file.read(head, 0, head.length, 0);
    return head.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}

async function look<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw AttuneError.is(error) ? error : missingMedia(path, reasonOf(error));
  }
}
