/** __id__: pictures of one colour that turns into another. Replace `picture` by your own. */

import { dataKind, type DataSource, definePlugin } from '@attune/core';
import { f32, type Rng } from '@attune/engine';
import { z } from 'zod';

export const id = '__id__';

/** What a recipe may say under `data` beside `use`. */
export const Options = z.strictObject({
  /** Side of a picture in pixels. */
  size: z.int().positive().default(64),
});
export type Options = z.infer<typeof Options>;

/** One picture, [3, size, size] in [-1, 1], from a stream of its own. */
function picture(size: number, rng: Rng): Float32Array {
  const [from, to] = [rng.normals([3]).data, rng.normals([3]).data];
  const pixels = new Float32Array(3 * size * size);
  for (let i = 0; i < pixels.length; i++) {
    const channel = Math.floor(i / (size * size));
    const across = (i % size) / size;
    pixels[i] = Math.tanh(from[channel] * (1 - across) + to[channel] * across);
  }
  return pixels;
}

/** `pixels` [N, 3, size, size]. Equal ids and streams give equal bytes, in whatever batch. */
export const source = ({ size }: Options): DataSource => ({
  dims: { F: 1, H: size, W: size },
  batch: (ids, rng) => {
    const row = 3 * size * size;
    const pixels = new Float32Array(ids.length * row);
    ids.forEach((sample, k) => pixels.set(picture(size, rng.fork(sample)), k * row));
    return { pixels: f32(pixels, [ids.length, 3, size, size]) };
  },
});

export const kind = dataKind({ options: Options, create: source });

export default definePlugin({ api: 1, contributes: { data: { [id]: kind } } });
