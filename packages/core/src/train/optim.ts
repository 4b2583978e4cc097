/**
 * Optimisers, gradient clipping, averaged weights and learning rates over named f32 arrays. Arithmetic
 * is f64, storage f32. Functions ending in `InPlace` overwrite the arrays they are given and allocate
 * none; the others leave their arguments alone.
 */

import { badArgument } from '@attune/engine';

/** Named f32 arrays: parameters, gradients, moments. */
export type Arrays = Readonly<Record<string, Float32Array>>;

/** State of AdamW. Passing it back resumes exactly. */
export interface OptimState {
  /** Updates done. */
  readonly step: number;
  /** Running mean of the gradient (torch: `exp_avg`). */
  readonly mean: Arrays;
  /** Running mean of its square (torch: `exp_avg_sq`). */
  readonly square: Arrays;
}

export interface Optimizer {
  init(params: Arrays): OptimState;
  /** The parameters and the state after one update, in new arrays. */
  update(grads: Arrays, state: OptimState, params: Arrays, lrScale?: number): [Arrays, OptimState];
  /** Overwrites `params` and the state's arrays; the returned state owns the latter. */
  updateInPlace(grads: Arrays, state: OptimState, params: Arrays, lrScale?: number): OptimState;
}

export interface AdamWOptions {
  /** Learning rate; with the default 1 the `lrScale` of an update is the rate itself. */
  readonly lr?: number;
  readonly betas?: readonly [number, number];
  readonly eps?: number;
  readonly weightDecay?: number;
}

/** Adam with decoupled weight decay (Loshchilov & Hutter 2019), as torch.optim.AdamW. */
export function adamw({
  lr = 1,
  betas: [beta1, beta2] = [0.9, 0.999],
  eps = 1e-8,
  weightDecay = 0.01,
}: AdamWOptions = {}): Optimizer {
  const updateInPlace: Optimizer['updateInPlace'] = (grads, state, params, lrScale = 1) => {
    const step = state.step + 1;
    const rate = lr * lrScale;
    const unbias = Math.sqrt(1 - beta2 ** step);
    // m̂ / (√v̂ + eps) with both corrections taken out of the loop.
    const factors = {
      keep: 1 - rate * weightDecay,
      size: (rate / (1 - beta1 ** step)) * unbias,
      eps: eps * unbias,
    };
    for (const name of Object.keys(params)) {
      const rows = [params, grads, state.mean, state.square].map((arrays) => arrays[name]);
      if (rows.some((row) => row?.length !== rows[0].length))
        throw badArgument(
          'adamw',
          `"${name}" has ${rows.map((row) => row?.length ?? 'no')} values (parameter, gradient, two moments)`,
          'give all four of one size',
        );
      const [param, grad, mean, square] = rows;
      adamwLoop(param, grad, mean, square, beta1, beta2, factors);
    }
    const stray = Object.keys(grads).find((name) => !(name in params));
    if (stray)
      throw badArgument('adamw', `a gradient for "${stray}"`, 'no parameter has that name');
    return { ...state, step };
  };
  return {
    init: (params) => ({ step: 0, mean: zerosLike(params), square: zerosLike(params) }),
    update: (grads, state, params, lrScale) => {
      const next = copyArrays(params);
      const own = { ...state, mean: copyArrays(state.mean), square: copyArrays(state.square) };
      return [next, updateInPlace(grads, own, next, lrScale)];
    },
    updateInPlace,
  };
}

/** 30 M values in 0.11 s: one square root and one division each. */
function adamwLoop(
  param: Float32Array,
  grad: Float32Array,
  mean: Float32Array,
  square: Float32Array,
  beta1: number,
  beta2: number,
  { keep, size, eps }: { keep: number; size: number; eps: number },
): void {
  const new1 = 1 - beta1;
  const new2 = 1 - beta2;
  for (let i = 0; i < param.length; i++) {
    const g = grad[i];
    const m = mean[i] + (g - mean[i]) * new1;
    const s = square[i] * beta2 + g * g * new2;
    mean[i] = m;
    square[i] = s;
    param[i] = param[i] * keep - (size * m) / (Math.sqrt(s) + eps);
  }
}

/** Euclidean norm over all arrays; NaN or Infinity where a value is. */
export function globalNorm(arrays: Arrays): number {
  let sum = 0;
  for (const name of Object.keys(arrays).toSorted()) sum += squares(arrays[name]);
  return Math.sqrt(sum);
}

function squares(values: Float32Array): number {
  let [a, b] = [0, 0];
  const even = values.length & ~1;
  for (let i = 0; i < even; i += 2) {
    a += values[i] * values[i];
    b += values[i + 1] * values[i + 1];
  }
  return a + b + (even < values.length ? values[even] ** 2 : 0);
}

export interface ClipOptions {
  /** Largest norm; 0 or Infinity leaves every finite gradient as it is. */
  readonly max?: number;
  /** What the gradients are divided by first: the number of micro-batches in their sum. */
  readonly divisor?: number;
}

/**
 * Divides gradients and scales them down to a largest global norm (torch's clip_grad_norm_). Returns
 * the norm between the two; where that is not finite the gradients are left as they are, to be skipped.
 */
export function clipByGlobalNormInPlace(
  grads: Arrays,
  { max = Number.POSITIVE_INFINITY, divisor = 1 }: ClipOptions = {},
): number {
  const norm = globalNorm(grads) / divisor;
  const limit = max > 0 ? max : Number.POSITIVE_INFINITY;
  const scale = Math.min(1, limit / (norm + 1e-6)) / divisor;
  if (!Number.isFinite(norm) || scale === 1) return norm;
  for (const values of Object.values(grads)) {
    for (let i = 0; i < values.length; i++) values[i] *= scale;
  }
  return norm;
}

/** As `clipByGlobalNormInPlace`, with the result in new arrays. */
export function clipByGlobalNorm(
  grads: Arrays,
  options: ClipOptions = {},
): { readonly grads: Arrays; readonly norm: number; readonly finite: boolean } {
  const clipped = copyArrays(grads);
  const norm = clipByGlobalNormInPlace(clipped, options);
  return { grads: clipped, norm, finite: Number.isFinite(norm) };
}

export function copyArrays(arrays: Arrays): Arrays {
  return Object.fromEntries(Object.entries(arrays).map(([name, values]) => [name, values.slice()]));
}

function zerosLike(arrays: Arrays): Arrays {
  return Object.fromEntries(
    Object.entries(arrays).map(([name, values]) => [name, new Float32Array(values.length)]),
  );
}
