/** Optimisers as pure functions of named arrays: nothing is updated in place. */

import { AttuneError } from '@attune/engine';

import type { Params } from './step.ts';

/** First and second moments, by parameter, and the number of updates done. */
export interface OptimState {
  readonly count: number;
  readonly m: Params;
  readonly v: Params;
}

export interface AdamWOptions {
  readonly betas?: readonly [number, number];
  readonly eps?: number;
  /** Decoupled: every update shrinks a parameter by lr · weightDecay. */
  readonly weightDecay?: number;
}

/** AdamW (Loshchilov & Hutter 2019), as torch.optim.AdamW computes it. */
export function adamw({ betas = [0.9, 0.999], eps = 1e-8, weightDecay = 0.01 }: AdamWOptions = {}) {
  const [beta1, beta2] = betas;
  return {
    init: (params: Params): OptimState => ({
      count: 0,
      m: zerosLike(params),
      v: zerosLike(params),
    }),

    /** One update with learning rate `lr`; parameters without a gradient stay as they are. */
    update(
      grads: Params,
      state: OptimState,
      params: Params,
      lr: number,
    ): { params: Params; state: OptimState } {
      const count = state.count + 1;
      const step = lr / (1 - beta1 ** count);
      const root = Math.sqrt(1 - beta2 ** count);
      const next: Record<string, Float32Array> = {};
      const m: Record<string, Float32Array> = {};
      const v: Record<string, Float32Array> = {};
      for (const [name, p] of Object.entries(params)) {
        const g = grads[name];
        if (!g) {
          [next[name], m[name], v[name]] = [p, state.m[name], state.v[name]];
          continue;
        }
        const [m0, v0] = [state.m[name], state.v[name]];
        const [p1, m1, v1] = [p, p, p].map(({ length }) => new Float32Array(length));
        for (let i = 0; i < p.length; i++) {
          const gi = g[i];
          m1[i] = m0[i] + (gi - m0[i]) * (1 - beta1);
          v1[i] = v0[i] * beta2 + (1 - beta2) * gi * gi;
          p1[i] = p[i] * (1 - lr * weightDecay) - (step * m1[i]) / (Math.sqrt(v1[i]) / root + eps);
        }
        [next[name], m[name], v[name]] = [p1, m1, v1];
      }
      return { params: next, state: { count, m, v } };
    },
  };
}

const zerosLike = (params: Params): Params =>
  Object.fromEntries(Object.entries(params).map(([name, p]) => [name, new Float32Array(p.length)]));

/** √Σ g², in f64. Not finite when any gradient is not. */
export function globalNorm(grads: Params): number {
  let sum = 0;
  for (const g of Object.values(grads)) for (let i = 0; i < g.length; i++) sum += g[i] * g[i];
  return Math.sqrt(sum);
}

/** Multiplies gradients by `factor`. */
export const scaled = (grads: Params, factor: number): Params =>
  factor === 1
    ? grads
    : Object.fromEntries(
        Object.entries(grads).map(([name, g]) => [name, g.map((x) => x * factor)]),
      );

/** a + b, name by name. */
export function added(a: Params, b: Params): Params {
  return Object.fromEntries(
    Object.entries(a).map(([name, x]) => {
      const y = b[name];
      if (!y) throw new AttuneError('INTERNAL', `internal: no gradient of ${name} to add.`);
      return [name, x.map((value, i) => value + y[i])];
    }),
  );
}

/** decay · average + (1 − decay) · params, with a decay that grows over the first steps: (1 + n) / (10 + n). */
export function emaUpdate(average: Params, params: Params, decay: number, step: number): Params {
  const keep = Math.min(decay, (1 + step) / (10 + step));
  return Object.fromEntries(
    Object.entries(average).map(([name, old]) => {
      const now = params[name];
      return [name, old.map((x, i) => x + (1 - keep) * (now[i] - x))];
    }),
  );
}

export interface LearningRate {
  readonly lr: number;
  readonly schedule: 'constant' | 'cosine' | 'linear';
  /** Steps of linear growth from 0. */
  readonly warmup: number;
  readonly steps: number;
}

/** The learning rate of update number `step` (from 0). */
export function learningRate({ lr, schedule, warmup, steps }: LearningRate, step: number): number {
  if (step < warmup) return (lr * (step + 1)) / warmup;
  const part = Math.min(1, (step - warmup) / Math.max(1, steps - warmup));
  if (schedule === 'cosine') return lr * 0.5 * (1 + Math.cos(Math.PI * part));
  return schedule === 'linear' ? lr * (1 - part) : lr;
}
