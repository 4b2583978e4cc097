/** Settings and seeds written inside the file itself: PNG text, EXIF, a GIF comment. mp4 has its own tag. */

import { crc32 } from 'node:zlib';

import { badArgument } from '@attune/engine';
import type { Exif } from 'sharp';

/** What is stored with a picture or clip, by name: prompt, seed, stack … */
export type Notes = Readonly<Record<string, string>>;

/** Notes as one line of ASCII JSON, for formats with a single text field. */
export const notesLine = (notes: Notes): string =>
  JSON.stringify(notes).replace(
    /[^\x20-\x7e]/g,
    (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );

/** Notes as EXIF for sharp: one line of JSON as the image's description. */
export const notesExif = (notes: Notes): Exif => ({
  IFD0: { Software: 'attune', ImageDescription: notesLine(notes) },
});

/** A PNG with one international text chunk per note, right after its header. Keys: 1 to 79 plain ASCII characters. */
export function withPngText(png: Uint8Array, notes: Notes): Uint8Array {
  const headerEnd = 8 + 25; // signature, IHDR
  const chunks = Object.entries(notes).map(([key, text]) => {
    if (!/^[\x21-\x7e]([\x20-\x7e]{0,77}[\x21-\x7e])?$/.test(key))
      throw badArgument('metadata', `the key ${JSON.stringify(key)}`, 'use 1 to 79 ASCII letters');
    // Keyword, 0, not compressed (0, 0), no language (0), no translated keyword (0), text.
    return pngChunk('iTXt', Buffer.from(`${key}\0\0\0\0\0${text.replaceAll('\0', '')}`));
  });
  return Buffer.concat([png.subarray(0, headerEnd), ...chunks, png.subarray(headerEnd)]);
}

function pngChunk(type: string, data: Uint8Array): Buffer {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), data]);
  const chunk = Buffer.alloc(body.length + 8);
  chunk.writeUInt32BE(data.length);
  chunk.set(body, 4);
  chunk.writeUInt32BE(crc32(body), body.length + 4);
  return chunk;
}

/** A GIF with the notes as a comment before its final byte. */
export function withGifComment(gif: Uint8Array, notes: Notes): Uint8Array {
  const text = Buffer.from(notesLine(notes), 'latin1');
  const blocks: Uint8Array[] = [];
  for (let at = 0; at < text.length; at += 255) {
    const part = text.subarray(at, at + 255);
    blocks.push(Uint8Array.of(part.length), part);
  }
  const end = gif.length - 1; // the trailer, 0x3b
  return Buffer.concat([
    gif.subarray(0, end),
    Uint8Array.of(0x21, 0xfe),
    ...blocks,
    Uint8Array.of(0),
    gif.subarray(end),
  ]);
}
