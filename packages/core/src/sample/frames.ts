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

/** How frames are cut. */
interface Cut {
  /** Clips that the rows [clips · F, …] belong to. Default 1. */
  readonly clips?: number;
  /** Frames of each clip in a piece, at most. */
  readonly most: number;
}

/**
 * What frames become, of which each is done by itself, so that many need no more memory than few. `made` is
 * given the same frames of every clip, and the number of the first of them.
 */
export async function inPieces(
  x: F32Array,
  { clips = 1, most }: Cut,
  made: (some: F32Array, start: number) => Promise<F32Array>,
): Promise<F32Array> {
  const each = Array.from({ length: clips }, (_, b) => b);
  const framesOf = ({ shape }: F32Array): number => shape[0] / clips;
  const F = framesOf(x);
  const pieces: F32Array[] = [];
  for (let start = 0; start < F; start += most) {
    const count = Math.min(most, F - start);
    const some = count === F ? x : allRows(each.map((b) => rows(x, b * F + start, count)));
    pieces.push(await made(some, start));
  }
  if (pieces.length === 1) return pieces[0];
  return allRows(
    each.flatMap((b) => pieces.map((piece) => rows(piece, b * framesOf(piece), framesOf(piece)))),
  );
}
