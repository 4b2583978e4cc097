/**
 * Arithmetic between noised x, clean x₀, noise ε and velocity v = α ε − σ x₀ (Salimans & Ho 2022), and
 * the DDIM step (Song et al. 2021). Everything is linear: a function here returns f64 coefficients,
 * `mix` applies them, so one traced net serves every schedule, prediction type and sampler.
 */

import { AttuneError, badArgument, type F32Array, type Rng } from '@attune/engine';

import type { NoiseSchedule, PredictionType } from './noise.ts';

/** cx · x + cp · p. */
export interface Pair {
  readonly cx: number;
  readonly cp: number;
}

/** x′ = cx · x + cp · prediction + cn · fresh noise. */
export interface Step extends Pair {
  readonly cn: number;
}

/** Below this α a velocity is not computed from ε: the error of ε grows by 1/α. */
export const MIN_ALPHA = 0.02;

type Form = 'target' | 'clean' | 'noise' | 'velocity';

/** Coefficients from α and σ; those of `target` belong to (x₀, ε), the others to (x_t, prediction). */
const forms: Readonly<
  Record<PredictionType, Readonly<Record<Form, (alpha: number, sigma: number) => Pair>>>
> = {
  epsilon: {
    target: () => ({ cx: 0, cp: 1 }),
    clean: (alpha, sigma) => ({ cx: 1 / alpha, cp: -sigma / alpha }),
    noise: () => ({ cx: 0, cp: 1 }),
    velocity: (alpha, sigma) => ({ cx: -sigma / alpha, cp: 1 / alpha }),
  },
  sample: {
    target: () => ({ cx: 1, cp: 0 }),
    clean: () => ({ cx: 0, cp: 1 }),
    noise: (alpha, sigma) => ({ cx: 1 / sigma, cp: -alpha / sigma }),
    velocity: (alpha, sigma) => ({ cx: alpha / sigma, cp: -1 / sigma }),
  },
  v_prediction: {
    target: (alpha, sigma) => ({ cx: -sigma, cp: alpha }),
    clean: (alpha, sigma) => ({ cx: alpha, cp: -sigma }),
    noise: (alpha, sigma) => ({ cx: sigma, cp: alpha }),
    velocity: () => ({ cx: 0, cp: 1 }),
  },
};

function formAt(schedule: NoiseSchedule, t: number, form: Form): Pair {
  const pair = forms[schedule.predictionType][form](schedule.alpha(t), schedule.sigma(t));
  if (Number.isFinite(pair.cx)) return pair;
  const what = `${form} from a ${schedule.predictionType} at t = ${t} divides by zero`;
  throw badArgument('schedule', what, 'take another time');
}

/** Noised latents x_t = cx · x₀ + cp · ε. */
export function noised(schedule: NoiseSchedule, t: number): Pair {
  return { cx: schedule.alpha(t), cp: schedule.sigma(t) };
}

/** What a net of the schedule's prediction type is trained to give: cx · x₀ + cp · ε. */
export function target(schedule: NoiseSchedule, t: number): Pair {
  return formAt(schedule, t, 'target');
}

/** The clean estimate x̂₀ = cx · x_t + cp · prediction. */
export function toClean(schedule: NoiseSchedule, t: number): Pair {
  return formAt(schedule, t, 'clean');
}

/** The noise estimate ε̂ = cx · x_t + cp · prediction. */
export function toNoise(schedule: NoiseSchedule, t: number): Pair {
  return formAt(schedule, t, 'noise');
}

/** The velocity estimate v̂ = cx · x_t + cp · prediction; refused for ε where α < MIN_ALPHA. */
export function toVelocity(schedule: NoiseSchedule, t: number): Pair {
  const alpha = schedule.alpha(t);
  if (schedule.predictionType === 'epsilon' && alpha < MIN_ALPHA)
    throw badArgument(
      'toVelocity',
      `at t = ${t} the signal √ᾱ = ${alpha.toPrecision(3)} is too little to divide by`,
      `keep times where √ᾱ ≥ ${MIN_ALPHA}`,
    );
  return formAt(schedule, t, 'velocity');
}

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
  const bar = schedule.alphaBar(t);
  const onConfig = landing === 'config' && !schedule.config.set_alpha_to_one;
  const nextBar = next !== null ? schedule.alphaBar(next) : onConfig ? schedule.alphaBar(0) : 1;
  if (next !== null && next >= t)
    throw badArgument('ddim', `a step from t = ${t} to ${next}`, 'times must decrease');
  const drawn = eta ** 2 * ((1 - nextBar) / (1 - bar)) * (1 - bar / nextBar);
  const clean = toClean(schedule, t);
  const noise = toNoise(schedule, t);
  const alpha = Math.sqrt(nextBar);
  const sigma = Math.sqrt(Math.max(0, 1 - nextBar - drawn));
  return {
    cx: alpha * clean.cx + sigma * noise.cx,
    cp: alpha * clean.cp + sigma * noise.cp,
    cn: Math.sqrt(drawn),
  };
}

/** Consecutive times as jumps, the last one to the end: [[t₁, t₂], …, [t_k, null]]. */
export function jumps(times: readonly number[]): [number, number | null][] {
  return times.map((t, i) => [t, i + 1 < times.length ? times[i + 1] : null]);
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

/** A sampler's step on arrays; draws from `rng` only where the step has fresh noise. */
export function takeStep(step: Step, x: F32Array, prediction: F32Array, rng?: Rng): F32Array {
  const next = mix(step, x, prediction);
  if (step.cn === 0) return next;
  if (!rng) throw badArgument('takeStep', 'a step with fresh noise has no rng', 'pass one');
  return mix({ cx: 1, cp: step.cn }, next, rng.normals(x.shape));
}
