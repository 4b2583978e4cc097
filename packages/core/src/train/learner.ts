/** What an optimiser changes, and how checkpoints hold it. */

import type { NDArray } from '@attune/engine';

import type { Arrays, OptimState } from './optim.ts';

/** Trainable parameters by name. */
export type Params = Arrays;

/** Trainable parameters with the state of their optimiser. */
export interface Learner {
  readonly params: Params;
  readonly optimizer: OptimState;
  /** Averaged parameters, where asked for. */
  readonly ema?: Params;
}

type Files = Readonly<Record<string, Readonly<Record<string, NDArray>>>>;

/** The arrays as files `params`, `mean`, `square` and `ema`, each name after `prefix`. */
export function packLearner(
  { params, optimizer: { mean, square }, ema }: Learner,
  { prefix = '', shapeOf = (_: string, length: number): readonly number[] => [length] } = {},
): Files {
  const file = (arrays: Arrays): Record<string, NDArray> =>
    Object.fromEntries(
      Object.entries(arrays).map(([name, data]) => [
        name,
        { dtype: 'f32', shape: shapeOf(name, data.length), data },
      ]),
    );
  const files = { params, mean, square, ...(ema ? { ema } : {}) };
  return Object.fromEntries(
    Object.entries(files).map(([name, arrays]) => [`${prefix}${name}`, file(arrays)]),
  );
}

/** The reverse, for an optimiser that had done `updates` updates. */
export function unpackLearner(files: Files, updates: number, prefix = ''): Learner {
  const arrays = (name: string): Arrays =>
    Object.fromEntries(
      Object.entries(files[`${prefix}${name}`]).map(([key, { data }]) => [
        key,
        data as Float32Array,
      ]),
    );
  return {
    params: arrays('params'),
    optimizer: { step: updates, mean: arrays('mean'), square: arrays('square') },
    ...(files[`${prefix}ema`] ? { ema: arrays('ema') } : {}),
  };
}
