/** Numbers that change over a run: learning rates and the decay of averaged weights. */

import { badArgument } from '@attune/engine';

import { type Arrays, copyArrays } from './optim.ts';

export interface RateOptions {
  readonly lr: number;
  readonly schedule?: 'constant' | 'linear' | 'cosine';
  /** Updates over which the rate grows linearly from 0. */
  readonly warmup?: number;
  /** Updates in all; the linear and cosine schedules end there at `floor`. */
  readonly steps?: number;
  /** Last rate as a share of `lr`. */
  readonly floor?: number;
}

/** Learning rate of an update, 0 the first: diffusers' get_scheduler, so a warm-up starts at rate 0. */
export function learningRate(
  { lr, schedule = 'constant', warmup = 0, steps, floor = 0 }: RateOptions,
  update: number,
): number {
  if (update < warmup) return (lr * update) / warmup;
  if (schedule === 'constant') return lr;
  if (steps === undefined || steps < warmup)
    throw badArgument(
      'learningRate',
      `a ${schedule} schedule over ${steps} updates`,
      `give steps ≥ warmup (${warmup})`,
    );
  const done = Math.min(1, (update - warmup) / Math.max(1, steps - warmup));
  const share = schedule === 'linear' ? 1 - done : 0.5 * (1 + Math.cos(Math.PI * done));
  return lr * (floor + (1 - floor) * share);
}

export interface EmaOptions {
  /** Share of the average that each update keeps. */
  readonly decay?: number;
  /** Updates after which half of the average is new; used instead of `decay`. */
  readonly halfLife?: number;
  /**
   * Smaller decays early on, `decay` being the largest: `ramp` (1 + n)/(10 + n), or 1 − (1 + n/gamma)^−power, n
   * updates into the averaging (diffusers' EMAModel).
   */
  readonly warmup?: 'ramp' | { readonly gamma: number; readonly power: number };
  /** First update that averages; before it the average is a copy. diffusers: 1 + update_after_step. */
  readonly start?: number;
}

/** Decay at an update, 0 the first. */
export function emaDecay(
  { decay, halfLife, warmup, start = 0 }: EmaOptions,
  update: number,
): number {
  const most = halfLife === undefined ? (decay ?? 0.999) : 0.5 ** (1 / halfLife);
  if (!(most >= 0 && most <= 1) || (decay !== undefined && halfLife !== undefined))
    throw badArgument(
      'ema',
      `decay ${decay}, half-life ${halfLife}`,
      'give one of them, the decay in 0 … 1',
    );
  if (update < start) return 0;
  if (warmup === undefined) return most;
  const n = update - start + 1;
  const early =
    warmup === 'ramp' ? (1 + n) / (10 + n) : 1 - (1 + n / warmup.gamma) ** -warmup.power;
  return Math.min(most, early);
}

/** Moves the average towards the parameters: a ← d·a + (1 − d)·p, overwriting it. */
export function emaUpdateInPlace(
  average: Arrays,
  params: Arrays,
  options: EmaOptions,
  update: number,
): void {
  const keep = emaDecay(options, update);
  for (const [name, values] of Object.entries(average)) {
    const source = params[name];
    if (source?.length !== values.length)
      throw badArgument(
        'ema',
        `"${name}" has ${source?.length ?? 'no'} values in the parameters, ${values.length} in the average`,
        'start a new average',
      );
    for (let i = 0; i < values.length; i++) values[i] = keep * values[i] + (1 - keep) * source[i];
  }
}

/** As `emaUpdateInPlace`, with the average in new arrays. */
export function emaUpdate(
  average: Arrays,
  params: Arrays,
  options: EmaOptions,
  update: number,
): Arrays {
  const next = copyArrays(average);
  emaUpdateInPlace(next, params, options, update);
  return next;
}
