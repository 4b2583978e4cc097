/** Frames as arrays: put together and taken apart along the first axis. */

import { AttuneError, type F32Array } from '@attune/engine';

/** Frames as one array [F, 3, H, W]; an error where one has another size. */
export function stacked(
  frames: readonly Float32Array[],
  [H, W]: readonly [number, number],
): F32Array {
  const odd = frames.find(({ length }) => length !== 3 * H * W);
  if (odd)
    throw new AttuneError(
      'SHAPE_MISMATCH',
      `editFrames: a frame of ${odd.length} values; [3, ${H}, ${W}] has ${3 * H * W}.`,
    );
  return { dtype: 'f32', shape: [frames.length, 3, H, W], data: joined(frames) };
}

/** One array after the other. */
export function joined(arrays: readonly Float32Array[]): Float32Array {
  const whole = new Float32Array(arrays.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const array of arrays) {
    whole.set(array, at);
    at += array.length;
  }
  return whole;
}

/** `count` rows of the first axis. */
export function rows({ data, shape }: F32Array, from: number, count: number): F32Array {
  const size = data.length / shape[0];
  return {
    dtype: 'f32',
    shape: [count, ...shape.slice(1)],
    data: data.subarray(from * size, (from + count) * size),
  };
}

/** Arrays of equal rows, one after the other along the first axis. */
export function allRows(arrays: readonly F32Array[]): F32Array {
  const [first] = arrays;
  if (arrays.length === 1) return first;
  const count = arrays.reduce((sum, { shape }) => sum + shape[0], 0);
  return {
    dtype: 'f32',
    shape: [count, ...first.shape.slice(1)],
    data: joined(arrays.map(({ data }) => data)),
  };
}
