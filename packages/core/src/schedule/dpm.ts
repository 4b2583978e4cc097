/** DPM-Solver++ of second order, multistep (Lu et al. 2022, algorithm 2; diffusers' "DPM++ 2M"). */

import { badArgument } from '@attune/engine';

import { estimate } from './forms.ts';
import {
  type Level,
  levelOf,
  linspace,
  type NoiseSchedule,
  roundEven,
  type Spacing,
} from './noise.ts';
import { clean, karrasRatios, type Plan, type PlannedStep } from './sampler.ts';

export interface DpmOptions {
  /** Default: the schedule's. */
  readonly spacing?: Spacing | undefined;
  /** Karras' levels over the whole schedule instead of a grid of times. */
  readonly karras?: boolean;
}

/** The last step, to x₀ itself, is of first order: it is the clean estimate. */
export function dpmPlan(
  schedule: NoiseSchedule,
  steps: number,
  { spacing = schedule.config.timestep_spacing, karras = false }: DpmOptions = {},
): Plan {
  const points = karras
    ? karrasRatios(schedule.ratio(schedule.length - 1), schedule.ratio(0), steps).map((ratio) => ({
        t: roundEven(schedule.timeOf(ratio)),
        level: levelOf(ratio),
      }))
    : dpmTimes(schedule, steps, spacing).map((t) => ({ t, level: schedule.level(t) }));
  const planned = points.map(({ t, level: from }, i): PlannedStep => {
    const to = points[i + 1]?.level ?? clean;
    const memory = estimate(schedule.predictionType, from, 'clean');
    // x′ = (σ′/σ) x + w D with D = x̂₀ + (x̂₀ − last x̂₀) · h / (2 · last h), h the step in log(α/σ).
    const ratio = to.sigma / from.sigma;
    const weight = to.alpha - ratio * from.alpha;
    const extra =
      i === 0 || to.sigma === 0 ? 0 : gap(from, to) / (2 * gap(points[i - 1].level, from));
    const own = weight * (1 + extra);
    return {
      t,
      cx: ratio + own * memory.cx,
      cp: own * memory.cp,
      cn: 0,
      ...(extra === 0 ? {} : { cm: -weight * extra }),
      memory,
    };
  });
  return { start: 1, steps: planned };
}

/** Step in λ = log(α/σ); Infinity from pure noise, after which a step is of first order. */
function gap(from: Level, to: Level): number {
  return Math.log(to.alpha / to.sigma) - Math.log(from.alpha / from.sigma);
}

/** The grids of diffusers' DPMSolverMultistepScheduler: leading and linspace leave out the clean end. */
function dpmTimes(schedule: NoiseSchedule, steps: number, spacing: Spacing): number[] {
  if (spacing === 'trailing') return schedule.timesteps(steps, spacing);
  if (!(Number.isInteger(steps) && steps >= 1 && steps < schedule.length))
    throw badArgument('dpm', `${steps} steps`, `take 1 to ${schedule.length - 1}`);
  const stride = Math.floor(schedule.length / (steps + 1));
  const times =
    spacing === 'linspace'
      ? linspace(0, schedule.length - 1, steps + 1).map(roundEven)
      : Array.from({ length: steps + 1 }, (_, i) => i * stride + schedule.config.steps_offset);
  return times.slice(1).toReversed();
}
