/** The sampler of latent consistency models (Luo et al. 2023; diffusers' LCMScheduler). */

import { badArgument } from '@attune/engine';

import { estimate } from './forms.ts';
import type { NoiseSchedule } from './noise.ts';
import type { Plan, PlannedStep } from './sampler.ts';

export interface LcmOptions {
  /** Steps of the DDIM grid that the model was distilled on. */
  readonly original?: number;
  /** Scale of t in the boundary condition. */
  readonly timestepScaling?: number;
}

/** σ_data of the boundary condition, squared. */
const DATA_VARIANCE = 0.25;

/** To the clean estimate at every step, and back up with fresh noise before the next. */
export function lcmPlan(
  schedule: NoiseSchedule,
  steps: number,
  { original = 50, timestepScaling = 10 }: LcmOptions = {},
): Plan {
  if (!(Number.isInteger(steps) && steps >= 1 && steps <= original && original <= schedule.length))
    throw badArgument(
      'lcm',
      `${steps} of ${original} steps`,
      'take no more than the original grid',
    );
  const stride = Math.floor(schedule.length / original);
  const times = Array.from(
    { length: steps },
    (_, i) => (original - Math.floor((i * original) / steps)) * stride - 1,
  );
  const planned = times.map((t, i): PlannedStep => {
    const image = estimate(schedule.predictionType, schedule.level(t), 'clean');
    // The boundary condition makes the estimate x itself at t = 0.
    const time = (t * timestepScaling) ** 2;
    const skip = DATA_VARIANCE / (time + DATA_VARIANCE);
    const out = Math.sqrt(time / (time + DATA_VARIANCE));
    const next = i + 1 < steps ? schedule.level(times[i + 1]) : { alpha: 1, sigma: 0 };
    return {
      t,
      cx: next.alpha * (out * image.cx + skip),
      cp: next.alpha * out * image.cp,
      cn: next.sigma,
    };
  });
  return { start: 1, steps: planned };
}
