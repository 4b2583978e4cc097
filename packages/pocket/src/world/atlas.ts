/** Reads the committed sprites (atlas/atlas.bin, written by scripts/atlas.mjs). */

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { inflateSync } from 'node:zlib';

import { badFile } from '@attune/engine';

/** Texels along each side of a sprite. */
export const TEXELS = 96;

/** One glyph. */
export interface Sprite {
  /** [TEXELS, TEXELS, 4], alpha-premultiplied RGBA. */
  readonly colour: Float32Array;
  /** [TEXELS, TEXELS], opacity of the line-art twin's ink. */
  readonly ink: Float32Array;
}

let sprites: ReadonlyMap<string, Sprite> | undefined;

/** The sprite of an object or a hat; the file is read on the first call. */
export function sprite(name: string): Sprite {
  sprites ??= readAtlas();
  const found = sprites.get(name);
  if (!found) throw badFile('atlas.bin', `no sprite named ${name}`);
  return found;
}

/** Finds the file from the sources and from the bundle alike. */
function readAtlas(): ReadonlyMap<string, Sprite> {
  const root = dirname(createRequire(import.meta.url).resolve('@attune/pocket/package.json'));
  return parseAtlas(readFileSync(join(root, 'atlas', 'atlas.bin')));
}

/** The sprites of an atlas file, by name. */
export function parseAtlas(file: Uint8Array): ReadonlyMap<string, Sprite> {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (file.length < 8 || Buffer.from(file.subarray(0, 4)).toString('latin1') !== 'ATLS')
    throw badFile('atlas.bin', 'not an atlas');
  const end = 8 + view.getUint32(4, true);
  if (end > file.length) throw badFile('atlas.bin', 'its index is longer than the file');
  const index = JSON.parse(Buffer.from(file.subarray(8, end)).toString()) as {
    side: number;
    sprites: string[];
  };
  const texels = TEXELS * TEXELS;
  const bytes = inflateSync(file.subarray(end), { maxOutputLength: 64 * 1024 * 1024 });
  if (index.side !== TEXELS || bytes.length !== index.sprites.length * texels * 5)
    throw badFile('atlas.bin', 'its pixels do not match its index', { bytes: bytes.length });
  return new Map(
    index.sprites.map((name, i) => {
      const at = i * texels * 5;
      const colour = new Float32Array(texels * 4);
      for (let t = 0; t < texels; t++) {
        const alpha = bytes[at + t * 4 + 3] / 255;
        for (let c = 0; c < 3; c++) colour[t * 4 + c] = (bytes[at + t * 4 + c] / 255) * alpha;
        colour[t * 4 + 3] = alpha;
      }
      const ink = Float32Array.from(
        bytes.subarray(at + texels * 4, at + texels * 5),
        (value) => value / 255,
      );
      return [name, { colour, ink }];
    }),
  );
}
