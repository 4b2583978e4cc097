/** A folder of frames: its png, jpg and webp files in natural order (frame2 before frame10). */

import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';

import { badMedia, missingMedia, noFrames, reasonOf } from './errors.ts';
import { checkFps, type Frame } from './frame.ts';
import { openPicture } from './picture.ts';
import { pictureFormat } from './sniff.ts';
import { MAX_FILE, type MediaSource } from './source.ts';

/** Frames per second of a folder, which cannot say so itself. */
const FOLDER_FPS = 8;

const byNature = new Intl.Collator('en', { numeric: true });

/** Frame files of a folder in natural order; hidden files, other kinds and folders are left out. */
async function frameFiles(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true });
  return entries
    .filter((entry) => !entry.isDirectory() && !entry.name.startsWith('.'))
    .map(({ name }) => name)
    .filter((name) => /\.(png|jpe?g|webp)$/i.test(name))
    .toSorted((a, b) => byNature.compare(a, b) || (a < b ? -1 : 1));
}

/** Opens a folder as a clip of `fps`. All its frames must have the first one's size. */
export async function openFolder(path: string, fps = FOLDER_FPS): Promise<MediaSource> {
  checkFps(path, fps);
  let names: string[];
  try {
    names = await frameFiles(path);
  } catch (error) {
    throw missingMedia(path, reasonOf(error));
  }
  if (names.length === 0) throw noFrames(path, 'in this folder (png, jpg or webp files)');
  const delay = 1000 / fps;
  const first = await readFrame(join(path, names[0]), delay);
  return {
    path,
    format: 'folder',
    kind: 'clip',
    width: first.width,
    height: first.height,
    fps,
    frameCount: names.length,
    audio: false,
    async *frames() {
      for (const name of names) {
        const file = join(path, name);
        const frame = await readFrame(file, delay);
        if (frame.width !== first.width || frame.height !== first.height)
          throw badMedia(
            file,
            `${frame.width}×${frame.height} pixels, but ${names[0]} has ${first.width}×${first.height}`,
          );
        yield frame;
      }
    },
  };
}

async function readFrame(file: string, delay: number): Promise<Frame> {
  let bytes: Uint8Array;
  try {
    const about = await stat(file);
    // A pipe would be waited for.
    if (!about.isFile()) throw new Error('it is no file');
    if (about.size > MAX_FILE) throw new Error(`it has ${about.size} bytes`);
    bytes = await readFile(file);
  } catch (error) {
    throw missingMedia(file, reasonOf(error));
  }
  const format = pictureFormat(bytes);
  if (!format) throw badMedia(file, 'not a png, jpg or webp picture');
  const source = await openPicture(file, bytes, format);
  for await (const frame of source.frames()) return { ...frame, delay };
  throw noFrames(file, 'inside');
}
