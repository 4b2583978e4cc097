// @ts-check
/**
 * Heun's method on the probability flow (Karras et al. 2022, arXiv 2206.00364, algorithm 1; diffusers'
 * HeunDiscreteScheduler): each step but the last goes ahead as DDIM does, looks at the noise there, and
 * makes up for half of the difference. Second order, two calls of the net a step.
 */

import { ddim, toNoise } from '@attune/core';

/** @import { NoiseSchedule, Plan, Spacing } from '@attune/core' */

/**
 * @typedef {object} HeunOptions
 * @property {Spacing | undefined} [spacing] of the times; default: the schedule's
 * @property {boolean} [karras] times whose noise ratios lie as Karras et al. place them, instead of a grid
 */

/**
 * `steps` steps make 2 · steps − 1 calls. In x / α, with the noise ratio r = σ / α for time, the flow is
 * dx = ε̂ dr; so a correction is α′ (r′ − r) / 2 · (ε̂′ − ε̂), whose ε̂ is the memory of the call before.
 * From pure noise (r = ∞) and to the clean end a step is of first order.
 * @param {NoiseSchedule} schedule
 * @param {number} steps
 * @param {HeunOptions} [options]
 * @returns {Plan}
 */
export function heunPlan(schedule, steps, { spacing, karras = false } = {}) {
  const grid = spacing ?? schedule.config.timestep_spacing;
  const times = karras ? karrasTimes(schedule, steps) : evenTimes(schedule, steps, grid);
  const planned = times.flatMap((t, i) => {
    const next = times[i + 1] ?? null;
    const ahead = { t, ...ddim(schedule, t, next) };
    const from = schedule.ratio(t);
    if (next === null || !Number.isFinite(from)) return [ahead];
    const { alpha } = schedule.level(next);
    const half = (alpha * (schedule.ratio(next) - from)) / 2;
    const noise = toNoise(schedule, next);
    const back = { t: next, cx: 1 + half * noise.cx, cp: half * noise.cp, cn: 0, cm: -half };
    return [{ ...ahead, memory: toNoise(schedule, t) }, back];
  });
  // diffusers' leading grid starts at unit noise, the others at the first level's own.
  const start = grid === 'leading' && !karras ? 1 : schedule.level(times[0]).sigma;
  return { start, steps: planned };
}

/**
 * A grid of times; of linspace, with fractions.
 * @param {NoiseSchedule} schedule
 * @param {number} steps
 * @param {Spacing} spacing
 */
function evenTimes(schedule, steps, spacing) {
  const times = schedule.timesteps(steps, spacing);
  if (spacing !== 'linspace' || steps === 1) return times;
  const last = schedule.length - 1;
  return times.map((_, i) => last - (i * last) / (steps - 1));
}

/**
 * Equation 5 with ρ = 7, over the whole schedule.
 * @param {NoiseSchedule} schedule
 * @param {number} steps
 */
function karrasTimes(schedule, steps) {
  const most = schedule.zeroTerminal ? schedule.length - 2 : schedule.length - 1;
  const [from, to] = [schedule.ratio(most) ** (1 / 7), schedule.ratio(0) ** (1 / 7)];
  const times = schedule.timesteps(steps, 'trailing');
  return times.map((_, i) => {
    const share = steps > 1 ? i / (steps - 1) : 0;
    return schedule.timeOf((from + share * (to - from)) ** 7);
  });
}
