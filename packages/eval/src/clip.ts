/** What metrics work on: clips [F, C, H, W] in [0, 1] and weights of their pixels [F, H, W]. */

import { AttuneError, type F32Array } from '@attune/engine';

/** Frames first: [F, C, H, W], values in [0, 1] where they are colours. */
export type Frames = F32Array;
/** One weight a pixel, [F, H, W] in [0, 1]: a mask, its complement, or any other. */
export type Weighting = F32Array;

/** An error unless two arrays have the same shape. */
export function sameSizes(metric: string, a: F32Array, b: F32Array): void {
  if (a.shape.join() !== b.shape.join())
    throw new AttuneError('METRIC_SHAPE', `${metric} compares [${a.shape}] with [${b.shape}].`);
}

/** An error unless weights [F, H, W] belong to frames [F, C, H, W]. */
export function fits(metric: string, frames: Frames, weights: Weighting): void {
  const [F, , H, W] = frames.shape;
  if (frames.shape.length !== 4 || weights.shape.join() !== [F, H, W].join())
    throw new AttuneError(
      'METRIC_SHAPE',
      `${metric} weighs frames [${frames.shape}] by [${weights.shape}]; it needs [F, C, H, W] and [F, H, W].`,
    );
}

/** Rows `from` … `to` − 1 of the leading axis, as a view: frame 0 is often judged apart. */
export function rowsOf(array: F32Array, from: number, to = array.shape[0]): F32Array {
  const size = array.data.length / array.shape[0];
  return {
    dtype: 'f32',
    shape: [to - from, ...array.shape.slice(1)],
    data: array.data.subarray(from * size, to * size),
  };
}

/** 1 − w: outside of a mask. */
export const outside = (weights: Weighting): Weighting => ({
  ...weights,
  data: weights.data.map((w) => 1 - w),
});

/** Visits a clip's values with the index of their pixel in [F, H, W]. */
export function eachValue(
  { shape: [F, C, H, W] }: Frames,
  visit: (value: number, pixel: number) => void,
): void {
  const area = H * W;
  for (let f = 0; f < F; f++)
    for (let c = 0; c < C; c++)
      for (let i = 0; i < area; i++) visit((f * C + c) * area + i, f * area + i);
}
