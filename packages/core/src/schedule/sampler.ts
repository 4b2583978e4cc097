/** What every sampler is: a list of times with the coefficients that follow each call of the net. */

import { badArgument, type F32Array, type Rng } from '@attune/engine';

import { estimate, mix, type Pair } from './forms.ts';
import type { Level, NoiseSchedule, PredictionType } from './noise.ts';

/** x′ = cx · x + cp · prediction + cn · fresh noise + cm · memory. */
export interface Step extends Pair {
  readonly cn: number;
  /** Weight of the memory that an earlier step left (multistep samplers). */
  readonly cm?: number;
  /** What this step leaves: cx · x + cp · prediction. */
  readonly memory?: Pair;
}

export interface PlannedStep extends Step {
  /** The time to give the net; a fraction where a sampler's levels lie between two. */
  readonly t: number;
}

/** A run of a sampler: x starts as `start` · unit noise and goes through the steps in order. */
export interface Plan {
  readonly start: number;
  readonly steps: readonly PlannedStep[];
}

/** A sampler makes a plan of so many steps; one step may call the net more than once. */
export type Sampler = (schedule: NoiseSchedule, steps: number) => Plan;

/** No noise: where every plan ends. */
export const clean: Level = { alpha: 1, sigma: 0 };

/** From one noise level to another along x̂₀ and ε̂; `fresh` of the noise is drawn anew. */
export function move(type: PredictionType, from: Level, to: Level, fresh = 0): Step {
  const image = estimate(type, from, 'clean');
  const noise = estimate(type, from, 'noise');
  const kept = Math.sqrt(Math.max(0, to.sigma ** 2 - fresh ** 2));
  return {
    cx: to.alpha * image.cx + kept * noise.cx,
    cp: to.alpha * image.cp + kept * noise.cp,
    cn: fresh,
  };
}

/** Deterministic moves through noise levels and on to the clean image. */
export function route(
  type: PredictionType,
  points: readonly { readonly t: number; readonly level: Level }[],
): PlannedStep[] {
  return points.map(({ t, level }, i) => ({
    t,
    ...move(type, level, points[i + 1]?.level ?? clean),
  }));
}

/** A step on arrays. Keep the returned memory for the next step. */
export function takeStep(
  step: Step,
  x: F32Array,
  prediction: F32Array,
  { memory, rng }: { readonly memory?: F32Array | undefined; readonly rng?: Rng } = {},
): { readonly x: F32Array; readonly memory?: F32Array } {
  let next = mix(step, x, prediction);
  if (step.cm) {
    if (!memory) throw badArgument('takeStep', 'a multistep step has no memory', 'pass the last');
    next = mix({ cx: 1, cp: step.cm }, next, memory);
  }
  if (step.cn !== 0) {
    if (!rng) throw badArgument('takeStep', 'a step with fresh noise has no rng', 'pass one');
    next = mix({ cx: 1, cp: step.cn }, next, rng.normals(x.shape));
  }
  return step.memory ? { x: next, memory: mix(step.memory, x, prediction) } : { x: next };
}

/**
 * `count` noise ratios σ/α from the first to the last of a range, dense towards the clean end
 * (Karras et al. 2022, equation 5, ρ = 7).
 */
export function karrasRatios(most: number, least: number, count: number): number[] {
  if (!Number.isFinite(most))
    throw badArgument('karras', 'the schedule has zero terminal SNR', 'use trailing spacing');
  const [from, to] = [most ** (1 / 7), least ** (1 / 7)];
  return Array.from({ length: count }, (_, i) => {
    const share = count > 1 ? i / (count - 1) : 0;
    return (from + share * (to - from)) ** 7;
  });
}
