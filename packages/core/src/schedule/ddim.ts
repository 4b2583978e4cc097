/** The DDIM sampler (Song et al. 2021). */

import { badArgument } from '@attune/engine';

import type { NoiseSchedule, Spacing } from './noise.ts';
import { clean, move, type Plan, type Step } from './sampler.ts';

export interface DdimOptions {
  /** Share of the noise drawn afresh: 0 is deterministic, 1 as noisy as the training process. */
  readonly eta?: number;
  /** Where the final jump lands: on x₀ (ᾱ = 1), or where `set_alpha_to_one` says. */
  readonly landing?: 'clean' | 'config';
}

/**
 * From time t to `next`, or to the end where `next` is null (Song et al. 2021, equation 12). In v the
 * deterministic step is a rotation by δ = φ_t − φ_next: cx = cos δ, cp = −sin δ.
 */
export function ddim(
  schedule: NoiseSchedule,
  t: number,
  next: number | null,
  { eta = 0, landing = 'clean' }: DdimOptions = {},
): Step {
  if (next !== null && next >= t)
    throw badArgument('ddim', `a step from t = ${t} to ${next}`, 'times must decrease');
  const last = landing === 'config' && !schedule.config.set_alpha_to_one ? 0 : null;
  const end = next ?? last;
  const from = schedule.level(t);
  const to = end === null ? clean : schedule.level(end);
  // η² (1 − ᾱ′)/(1 − ᾱ) · (1 − ᾱ/ᾱ′), equation 16.
  const share = (to.sigma / from.sigma) * Math.sqrt(1 - (from.alpha / to.alpha) ** 2);
  return move(schedule.predictionType, from, to, eta === 0 ? 0 : eta * share);
}

/** Consecutive times as jumps, the last one to the end: [[t₁, t₂], …, [t_k, null]]. */
export function jumps(times: readonly number[]): [number, number | null][] {
  return times.map((t, i) => [t, i + 1 < times.length ? times[i + 1] : null]);
}

/** DDIM over given times, or over so many of the schedule's (diffusers' DDIMScheduler). */
export function ddimPlan(
  schedule: NoiseSchedule,
  steps: number | readonly number[],
  { spacing, ...options }: DdimOptions & { readonly spacing?: Spacing | undefined } = {},
): Plan {
  const times = typeof steps === 'number' ? schedule.timesteps(steps, spacing) : steps;
  return {
    start: 1,
    steps: jumps(times).map(([t, next]) => ({ t, ...ddim(schedule, t, next, options) })),
  };
}
