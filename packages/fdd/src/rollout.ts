/**
 * A student's generation with a gradient through all of its steps. The rollout keeps what `remat`
 * lets it keep; the sweep needs one cotangent of x₀ and costs the same for any number of teachers.
 */

import { mix, type Pair } from '@attune/core';
import type { Cotangents, F32Array, Feeds, NDArray, Sweep, Tape } from '@attune/engine';

/** One sampling step: its time per clip (or one for all), and x′ = cx · x + cp · prediction per clip. */
export interface RolloutStep {
  /** `timestep` [1] or [B], and what else changes from step to step. */
  readonly feeds: Feeds;
  /** One pair for all rows, or one per clip. */
  readonly pairs: Pair | readonly Pair[];
}

/** How gradients flow back: through every step, the last few, or without the chain through x. */
export type GradSteps = 'all' | 'detach-input' | { readonly last: number };

/** A generation, and what its way back needs. */
export interface Rolled {
  /** The generated clean latents x′₀. */
  readonly latents: F32Array;
  readonly clip: Tape;
  readonly tapes: readonly Tape[];
  readonly steps: readonly RolloutStep[];
}

/** Generates from noise (x₁) along the given steps. `sweep` gives gradients of the sample, too. */
export async function roll(
  sweep: Sweep,
  feeds: Feeds,
  noise: F32Array,
  steps: readonly RolloutStep[],
): Promise<Rolled> {
  const clip = await sweep.clip(feeds);
  const tapes: Tape[] = [];
  let x = noise;
  for (const { feeds: own, pairs } of steps) {
    const { outputs, tape } = await sweep.step(clip, { ...feeds, ...own, sample: x });
    tapes.push(tape);
    x = mix(pairs, x, outputs.sample as F32Array);
  }
  return { latents: x, clip, tapes, steps };
}

export interface SweptBack {
  /** Gradients of everything that belongs to the clip: trainable parameters, text, hints. */
  readonly grads: Record<string, F32Array>;
  /** The cotangent of the noise x₁ (of the input of the first step that has a gradient). */
  readonly noise: F32Array;
  /** RMS of the cotangent that reaches each step's output, first step first. */
  readonly sizes: readonly number[];
}

/** The reverse sweep of Σ x′₀ · cotangent. */
export async function sweepBack(
  sweep: Sweep,
  { clip, tapes, steps }: Rolled,
  cotangent: F32Array,
  gradSteps: GradSteps = 'all',
): Promise<SweptBack> {
  const bar: Cotangents = new Map();
  const from = typeof gradSteps === 'object' ? Math.max(0, steps.length - gradSteps.last) : 0;
  const sizes = Array.from({ length: steps.length }, () => 0);
  let g = cotangent;
  for (let j = steps.length - 1; j >= from; j--) {
    const { pairs } = steps[j];
    const ofPrediction = mix(only(pairs, 'cp'), g, g);
    sizes[j] = rms(ofPrediction);
    const own = await sweep.back(tapes[j], { sample: ofPrediction }, bar);
    const straight = mix(only(pairs, 'cx'), g, g);
    g = gradSteps === 'detach-input' ? straight : plus(straight, own.sample);
  }
  return { grads: await sweep.finish(clip, bar), sizes, noise: g };
}

/** Pairs that multiply their first operand by one coefficient of the given ones. */
function only(pairs: Pair | readonly Pair[], key: keyof Pair): Pair | readonly Pair[] {
  const keep = (pair: Pair): Pair => ({ cx: pair[key], cp: 0 });
  return 'cx' in pairs ? keep(pairs) : pairs.map(keep);
}

const plus = (a: F32Array, b: NDArray): F32Array => ({
  ...a,
  data: a.data.map((value, i) => value + Number(b.data[i])),
});

function rms({ data }: F32Array): number {
  let sum = 0;
  for (const value of data) sum += value * value;
  return Math.sqrt(sum / data.length);
}
