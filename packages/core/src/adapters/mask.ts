/** Masks at the sizes of the sites they gate. */

import type { F32Array, Shape } from '@attune/engine';

/**
 * A mask [H, W] or [F, H, W] as [rows, h, w]: means over the area that each pixel covers. Rows are frames
 * from number `frame` on; the mask's last frame holds for all later ones.
 */
export function resizedMask({ data, shape }: F32Array, [rows, h, w]: Shape, frame = 0): F32Array {
  const [H, W] = shape.slice(-2);
  const count = shape.length === 3 ? shape[0] : 1;
  const out = new Float32Array(rows * h * w);
  const [ys, xs] = [shares(H, h), shares(W, w)];
  for (let f = 0; f < rows; f++) {
    const from = Math.min(frame + f, count - 1) * H * W;
    for (let y = 0; y < h; y++)
      for (let x = 0; x < w; x++) {
        let sum = 0;
        for (const [i, a] of ys[y])
          for (const [j, b] of xs[x]) sum += a * b * data[from + i * W + j];
        out[(f * h + y) * w + x] = sum;
      }
  }
  return { dtype: 'f32', shape: [rows, h, w], data: out };
}

/** For each of `to` cells the old cells it covers, with their shares of it. */
function shares(from: number, to: number): readonly (readonly [number, number])[][] {
  const size = from / to;
  return Array.from({ length: to }, (_, k) => {
    const [low, high] = [k * size, (k + 1) * size];
    const cells: [number, number][] = [];
    for (let i = Math.floor(low); i < Math.min(from, Math.ceil(high - 1e-9)); i++)
      cells.push([i, (Math.min(i + 1, high) - Math.max(i, low)) / size]);
    return cells;
  });
}
