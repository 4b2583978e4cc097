/**
 * Linear arithmetic between noised x, clean x₀, noise ε and velocity v = α ε − σ x₀ (Salimans & Ho
 * 2022). Functions return f64 coefficients, `mix` applies them, so one traced net serves every
 * schedule, prediction type and sampler.
 */

import { AttuneError, badArgument, type F32Array } from '@attune/engine';

import type { Level, NoiseSchedule, PredictionType } from './noise.ts';

/** cx · x + cp · p. */
export interface Pair {
  readonly cx: number;
  readonly cp: number;
}

/** Below this α a velocity is not computed from ε: the error of ε grows by 1/α. */
export const MIN_ALPHA = 0.02;

type Form = 'target' | 'clean' | 'noise' | 'velocity';

/** Those of `target` belong to (x₀, ε), the others to (x_t, prediction). */
const forms: Readonly<Record<PredictionType, Readonly<Record<Form, (level: Level) => Pair>>>> = {
  epsilon: {
    target: () => ({ cx: 0, cp: 1 }),
    clean: ({ alpha, sigma }) => ({ cx: 1 / alpha, cp: -sigma / alpha }),
    noise: () => ({ cx: 0, cp: 1 }),
    velocity: ({ alpha, sigma }) => ({ cx: -sigma / alpha, cp: 1 / alpha }),
  },
  sample: {
    target: () => ({ cx: 1, cp: 0 }),
    clean: () => ({ cx: 0, cp: 1 }),
    noise: ({ alpha, sigma }) => ({ cx: 1 / sigma, cp: -alpha / sigma }),
    velocity: ({ alpha, sigma }) => ({ cx: alpha / sigma, cp: -1 / sigma }),
  },
  v_prediction: {
    target: ({ alpha, sigma }) => ({ cx: -sigma, cp: alpha }),
    clean: ({ alpha, sigma }) => ({ cx: alpha, cp: -sigma }),
    noise: ({ alpha, sigma }) => ({ cx: sigma, cp: alpha }),
    velocity: () => ({ cx: 0, cp: 1 }),
  },
};

/** An estimate at any noise level: the clean image, the noise or the velocity from (x, prediction). */
export function estimate(
  type: PredictionType,
  level: Level,
  form: 'clean' | 'noise' | 'velocity',
): Pair {
  const pair = forms[type][form](level);
  if (Number.isFinite(pair.cx)) return pair;
  throw badArgument(
    'schedule',
    `${form} from a prediction of type ${type} at √ᾱ = ${level.alpha} divides by zero`,
    'take another time',
  );
}

/** Noised latents x_t = cx · x₀ + cp · ε. */
export function noised(schedule: NoiseSchedule, t: number): Pair {
  return { cx: schedule.alpha(t), cp: schedule.sigma(t) };
}

/** What a net of the schedule's prediction type is trained to give: cx · x₀ + cp · ε. */
export function target(schedule: NoiseSchedule, t: number): Pair {
  return forms[schedule.predictionType].target(schedule.level(t));
}

/** The clean estimate x̂₀ = cx · x_t + cp · prediction. */
export function toClean(schedule: NoiseSchedule, t: number): Pair {
  return estimate(schedule.predictionType, schedule.level(t), 'clean');
}

/** The noise estimate ε̂ = cx · x_t + cp · prediction. */
export function toNoise(schedule: NoiseSchedule, t: number): Pair {
  return estimate(schedule.predictionType, schedule.level(t), 'noise');
}

/** The velocity estimate v̂ = cx · x_t + cp · prediction; refused for ε where α < MIN_ALPHA. */
export function toVelocity(schedule: NoiseSchedule, t: number): Pair {
  const level = schedule.level(t);
  if (schedule.predictionType === 'epsilon' && level.alpha < MIN_ALPHA)
    throw badArgument(
      'toVelocity',
      `at t = ${t} the signal √ᾱ = ${level.alpha.toPrecision(3)} is too little to divide by`,
      `keep times where √ᾱ ≥ ${MIN_ALPHA}`,
    );
  return estimate(schedule.predictionType, level, 'velocity');
}

/**
 * cx · x + cp · p in f32. Of several pairs each serves an equal run of rows of the first axis (rows
 * are (b f): one pair per clip or per frame).
 */
export function mix(pairs: Pair | readonly Pair[], x: F32Array, p: F32Array): F32Array {
  const list = 'cx' in pairs ? [pairs] : pairs;
  const run = x.data.length / list.length;
  if (x.shape.join() !== p.shape.join() || (list.length > 1 && x.shape[0] % list.length !== 0))
    throw new AttuneError(
      'SHAPE_MISMATCH',
      `mix: [${x.shape}] and [${p.shape}] with ${list.length} pairs of coefficients.`,
      { x: x.shape, p: p.shape, pairs: list.length },
    );
  const data = new Float32Array(x.data.length);
  list.forEach(({ cx, cp }, row) => {
    for (let i = row * run; i < (row + 1) * run; i++) data[i] = cx * x.data[i] + cp * p.data[i];
  });
  return { dtype: 'f32', shape: x.shape, data };
}
