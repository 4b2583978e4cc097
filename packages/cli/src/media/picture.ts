/** Stills and animations through sharp: png, jpg, webp and gif, in and out. */

import type { Sharp, SharpOptions } from 'sharp';

import { badMedia, reasonOf, tooBig } from './errors.ts';
import { fpsOf, type Frame, roundDelays } from './frame.ts';
import { unfinishedGif } from './gif.ts';
import { type Notes, notesExif, withGifComment, withPngText } from './notes.ts';
import { MAX_PIXELS, type MediaSource } from './source.ts';

export type PictureFormat = 'png' | 'jpeg' | 'webp' | 'gif';

/** Pixels of an animation decoded at once: 64 MB as RGBA. */
const CHUNK_PIXELS = 2 ** 24;

/** What an animation may hold in memory while it is encoded, in bytes of RGB. */
const MAX_ANIMATION = 2 ** 31 - 1;

/** GIFs and WebPs that ask for 10 ms or less get what browsers give them, in ms. */
const HASTY = 100;

/** Loaded where a picture is met: commands that meet none start sooner. */
const loadSharp = async () => (await import('sharp')).default;

const readOptions: SharpOptions = { failOn: 'error', limitInputPixels: MAX_PIXELS };

/**
 * Opens the bytes of a still or an animation. They are read from a buffer, not by name: sharp keeps
 * what it read by name even after the file changed.
 */
export async function openPicture(
  path: string,
  bytes: Uint8Array,
  format: PictureFormat,
): Promise<MediaSource> {
  if (format === 'gif' && unfinishedGif(bytes)) throw badMedia(path, 'the GIF is cut off');
  const sharp = await loadSharp();
  const about = await attempt(path, () => sharp(bytes, { ...readOptions, pages: 1 }).metadata());
  const count = about.pages ?? 1;
  const { width, height } = count > 1 ? about : about.autoOrient;
  if (width * height > MAX_PIXELS)
    throw tooBig(path, `${width}×${height} pixels`, 'make it smaller first');
  const shared = { path, format, width, height, frameCount: count, audio: false };
  if (count === 1)
    return {
      ...shared,
      kind: 'image',
      fps: 0,
      async *frames() {
        const image = sharp(bytes, readOptions).autoOrient();
        yield { ...(await attempt(path, () => raster(image))), delay: 0 };
      },
    };
  const given = about.delay ?? [];
  const delays = Array.from({ length: count }, (_, i) => {
    const delay = given[i] ?? given[0] ?? HASTY;
    return delay <= 10 ? HASTY : delay;
  });
  return {
    ...shared,
    kind: 'clip',
    fps: fpsOf(delays),
    async *frames() {
      const chunk = Math.max(1, Math.floor(CHUNK_PIXELS / (width * height)));
      for (let page = 0; page < count; page += chunk) {
        const pages = Math.min(chunk, count - page);
        const limitInputPixels = width * height * pages;
        const image = sharp(bytes, { ...readOptions, limitInputPixels, page, pages });
        const { data } = await attempt(path, () => raster(image));
        const size = width * height * 3;
        if (data.length !== size * pages) throw badMedia(path, 'its frames differ in size');
        for (let i = 0; i < pages; i++)
          yield {
            data: data.slice(i * size, (i + 1) * size),
            width,
            height,
            delay: delays[page + i],
          };
      }
    },
  };
}

/** Any picture → 8-bit sRGB, alpha over white. */
async function raster(image: Sharp): Promise<{ data: Uint8Array; width: number; height: number }> {
  const { data, info } = await image
    .flatten({ background: '#ffffff' })
    .toColourspace('srgb')
    .raw({ depth: 'uchar' })
    .toBuffer({ resolveWithObject: true });
  if (info.channels !== 3) throw new Error(`${info.channels} colour channels instead of 3`);
  return { data: plain(data), width: info.width, height: info.height };
}

async function attempt<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw badMedia(path, `cannot be decoded (${reasonOf(error)})`);
  }
}

/** A frame as sharp's raw input. */
const asSharp = async ({ data, width, height }: Frame): Promise<Sharp> =>
  (await loadSharp())(data, { raw: { width, height, channels: 3 } });

/** A frame through sharp and back, its delay kept. */
export async function through(frame: Frame, edit: (image: Sharp) => Sharp): Promise<Frame> {
  const { data, info } = await edit(await asSharp(frame))
    .raw()
    .toBuffer({ resolveWithObject: true });
  return { data: plain(data), width: info.width, height: info.height, delay: frame.delay };
}

/** A Buffer's bytes as a plain Uint8Array, not copied. */
const plain = (buffer: Buffer): Uint8Array =>
  new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.byteLength);

/** One frame as png (lossless), webp (lossless) or jpeg (quality 95, full chroma) bytes. */
export async function encodeStill(
  frame: Frame,
  format: Exclude<PictureFormat, 'gif'>,
  notes: Notes,
): Promise<Uint8Array> {
  const image = await asSharp(frame);
  if (format === 'png') return withPngText(await image.png().toBuffer(), notes);
  if (Object.keys(notes).length > 0) image.withExif(notesExif(notes));
  return format === 'webp'
    ? image.webp({ lossless: true, effort: 0 }).toBuffer()
    : image.jpeg({ quality: 95, chromaSubsampling: '4:4:4' }).toBuffer();
}

/**
 * Frames of one size as an endless gif (256 colours a frame, delays to 10 ms) or webp (lossless,
 * delays to 1 ms; frames that repeat become one that lasts longer). Each has a delay. Throws MEDIA_TOO_BIG above 2 GB of RGB.
 */
export async function encodeAnimation(
  path: string,
  frames: readonly Frame[],
  format: 'gif' | 'webp',
  notes: Notes,
): Promise<Uint8Array> {
  const [{ width, height }] = frames;
  const size = width * height * 3;
  if (frames.length * size > MAX_ANIMATION)
    throw tooBig(
      path,
      `${frames.length} frames of ${width}×${height} are too much for one ${format}`,
      'write .mp4 or a folder',
    );
  const tall = Buffer.alloc(frames.length * size);
  frames.forEach(({ data }, i) => tall.set(data, i * size));
  const sharp = await loadSharp();
  const image = sharp(tall, {
    limitInputPixels: false,
    raw: { width, height: height * frames.length, channels: 3, pageHeight: height },
  });
  const delays = frames.map(({ delay }) => delay);
  if (format === 'gif') {
    const delay = roundDelays(delays, 10, 20);
    const gif = await image
      .gif({ effort: 1, dither: 0, loop: 0, keepDuplicateFrames: true, delay })
      .toBuffer();
    return Object.keys(notes).length > 0 ? withGifComment(gif, notes) : gif;
  }
  if (Object.keys(notes).length > 0) image.withExif(notesExif(notes));
  const delay = roundDelays(delays, 1);
  return image.webp({ lossless: true, effort: 0, loop: 0, delay }).toBuffer();
}
