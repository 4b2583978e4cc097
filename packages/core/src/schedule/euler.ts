/**
 * The Euler sampler over noise ratios σ/α (Karras et al. 2022; diffusers' EulerDiscreteScheduler). On
 * variance-preserving x its step IS DDIM's; what differs are the times, which may be fractions.
 */

import { levelOf, linspace, type NoiseSchedule, type Spacing } from './noise.ts';
import { karrasRatios, type Plan, route } from './sampler.ts';

export interface EulerOptions {
  /** Default: the schedule's. */
  readonly spacing?: Spacing | undefined;
  /** Karras' levels between the first and the last of the grid. */
  readonly karras?: boolean;
}

export function eulerPlan(
  schedule: NoiseSchedule,
  steps: number,
  { spacing = schedule.config.timestep_spacing, karras = false }: EulerOptions = {},
): Plan {
  const grid = schedule.timesteps(steps, spacing);
  const times =
    spacing === 'linspace' ? linspace(0, schedule.length - 1, steps).toReversed() : grid;
  const points = karras
    ? karrasRatios(schedule.ratio(times[0]), schedule.ratio(times[steps - 1]), steps).map(
        (ratio) => ({ t: schedule.timeOf(ratio), level: levelOf(ratio) }),
      )
    : times.map((t) => ({ t, level: schedule.level(t) }));
  // diffusers' leading grid starts at unit noise, the others at the first level's own.
  const start = spacing === 'leading' ? 1 : points[0].level.sigma;
  return { start, steps: route(schedule.predictionType, points) };
}
