/** How much noise a model was trained with at each time: x_t = α x₀ + σ ε, α² + σ² = 1. All in f64. */

import { AttuneError, badArgument } from '@attune/engine';
import { z } from 'zod';

import { parseConfig } from '../models/folder.ts';

const Beta = z.number().min(0).max(1);

/**
 * A diffusers `scheduler_config.json`. It gives the noise and the grid; which sampler runs is not
 * its business, so keys of samplers are tolerated and unread.
 */
export const ScheduleConfig = z.looseObject({
  _class_name: z.string().optional(),
  num_train_timesteps: z.int().min(2).max(1_000_000).default(1000),
  beta_start: Beta.default(0.0001),
  beta_end: Beta.default(0.02),
  beta_schedule: z.enum(['linear', 'scaled_linear', 'squaredcos_cap_v2']).default('linear'),
  trained_betas: z.array(Beta).nullish(),
  prediction_type: z.enum(['epsilon', 'v_prediction', 'sample']).default('epsilon'),
  rescale_betas_zero_snr: z.boolean().default(false),
  /** True: the last jump of a sampler lands on ᾱ = 1; false: on ᾱ₀. */
  set_alpha_to_one: z.boolean().default(true),
  steps_offset: z.int().nonnegative().default(0),
  timestep_spacing: z.enum(['leading', 'linspace', 'trailing']).default('leading'),
  thresholding: z.literal(false, 'pixel-space thresholding is not supported').default(false),
  clip_sample: z.literal(false, 'latents must not be clipped; set it to false').default(false),
  use_flow_sigmas: z.literal(false, 'flow matching is not supported').default(false),
});
/** A scheduler config with all defaults filled in. */
export type ScheduleConfig = z.infer<typeof ScheduleConfig>;
/** What a net's output stands for. */
export type PredictionType = ScheduleConfig['prediction_type'];
/** Where sampling times lie (Lin et al. 2024, table 2). */
export type Spacing = ScheduleConfig['timestep_spacing'];

/** The keys that say how noisy training was and what its prediction stood for. */
const trainingKeys = [
  'num_train_timesteps',
  'beta_schedule',
  'beta_start',
  'beta_end',
  'trained_betas',
  'rescale_betas_zero_snr',
  'prediction_type',
] as const satisfies readonly (keyof ScheduleConfig)[];

/** The part of a config that what is trained with it depends on. */
export const trainingPart = (config: ScheduleConfig): Partial<ScheduleConfig> =>
  Object.fromEntries(
    trainingKeys.flatMap((key) => (config[key] == null ? [] : [[key, config[key]]])),
  );

/** x = alpha · x₀ + sigma · ε, alpha² + sigma² = 1. */
export interface Level {
  readonly alpha: number;
  readonly sigma: number;
}

/** The level of a noise ratio σ/α in [0, ∞]. */
export function levelOf(ratio: number): Level {
  const alpha = 1 / Math.hypot(1, ratio);
  return { alpha, sigma: alpha === 0 ? 1 : ratio * alpha };
}

const stable = { beta_start: 0.00085, beta_end: 0.012 } as const;
const spread = { timestep_spacing: 'linspace' } as const;
/** Defaults that diffusers' classes do not share, for files that leave keys out. */
const classDefaults: Readonly<Record<string, z.input<typeof ScheduleConfig>>> = {
  DDIMScheduler: {},
  DDPMScheduler: {},
  PNDMScheduler: { set_alpha_to_one: false },
  LCMScheduler: { ...stable, beta_schedule: 'scaled_linear' },
  TCDScheduler: { ...stable, beta_schedule: 'scaled_linear' },
  EulerDiscreteScheduler: spread,
  EulerAncestralDiscreteScheduler: spread,
  LMSDiscreteScheduler: spread,
  DPMSolverMultistepScheduler: spread,
  DPMSolverSinglestepScheduler: spread,
  UniPCMultistepScheduler: spread,
  DEISMultistepScheduler: spread,
  HeunDiscreteScheduler: { ...stable, ...spread },
  KDPM2DiscreteScheduler: { ...stable, ...spread },
  KDPM2AncestralDiscreteScheduler: { ...stable, ...spread },
};

/** The noise of one training setup. Times are integers 0 … length − 1. */
export class NoiseSchedule {
  readonly config: ScheduleConfig;
  /** Number of training times T. */
  readonly length: number;
  readonly predictionType: PredictionType;
  readonly #alphaBars: Float64Array;

  private constructor(config: ScheduleConfig, where: string) {
    this.config = config;
    this.#alphaBars = alphaBars(config, where);
    this.length = this.#alphaBars.length;
    this.predictionType = config.prediction_type;
    if (this.predictionType === 'epsilon' && this.zeroTerminal)
      throw new AttuneError(
        'ZERO_SNR_EPSILON',
        `${where}: an ε-prediction says nothing about the image at t = ${this.length - 1}, where the schedule leaves no signal; use prediction_type v_prediction or sample (as the model was trained), or rescale_betas_zero_snr false.`,
        { where, last: this.length - 1 },
      );
  }

  /** Checks a parsed scheduler config. `where` names it in errors. */
  static of(config: unknown, where = 'scheduler_config.json'): NoiseSchedule {
    const given = parseConfig(z.looseObject({ _class_name: z.string().optional() }), config, where);
    const name = given._class_name;
    const known = name === undefined ? {} : classDefaults[name];
    if (!known && !given.trained_betas && given.beta_start === undefined)
      throw new AttuneError(
        'BAD_CONFIG',
        `${where}: ${name} is no scheduler over β; known: ${Object.keys(classDefaults).join(', ')}.`,
        { where, name },
      );
    return new NoiseSchedule(parseConfig(ScheduleConfig, { ...known, ...given }, where), where);
  }

  /** The same schedule with some keys changed, checked again. */
  with(changes: Partial<z.input<typeof ScheduleConfig>>): NoiseSchedule {
    return NoiseSchedule.of({ ...this.config, ...changes }, 'schedule');
  }

  /** True where the last time holds no signal: ᾱ = 0. */
  get zeroTerminal(): boolean {
    return this.#alphaBars[this.length - 1] === 0;
  }

  /** ᾱ_t, the share of the signal in the variance. */
  alphaBar(t: number): number {
    if (!(Number.isInteger(t) && t >= 0 && t < this.length))
      throw badArgument('schedule', `time ${t}`, `times are integers in 0 … ${this.length - 1}`);
    return this.#alphaBars[t];
  }

  /** √ᾱ_t. */
  alpha(t: number): number {
    return Math.sqrt(this.alphaBar(t));
  }

  /** √(1 − ᾱ_t). */
  sigma(t: number): number {
    return Math.sqrt(1 - this.alphaBar(t));
  }

  /** Angle between clean and noise: arccos α_t, in (0, π/2]. */
  phi(t: number): number {
    return Math.atan2(this.sigma(t), this.alpha(t));
  }

  /** ᾱ / (1 − ᾱ). */
  snr(t: number): number {
    return this.alphaBar(t) / (1 - this.alphaBar(t));
  }

  /** α and σ at a time; between two integers the ratio σ/α is interpolated, as samplers do. */
  level(t: number): Level {
    return Number.isInteger(t)
      ? { alpha: this.alpha(t), sigma: this.sigma(t) }
      : levelOf(this.ratio(t));
  }

  /** σ/α at a time or between two; Infinity where no signal is left. */
  ratio(t: number): number {
    const low = Math.floor(t);
    const own = this.sigma(low) / this.alpha(low);
    return t === low ? own : own + (t - low) * (this.ratio(low + 1) - own);
  }

  /** The time of a ratio σ/α, a fraction, by interpolating its logarithm; clamped to the schedule. */
  timeOf(ratio: number): number {
    const low = this.#last((t) => this.ratio(t) <= ratio, this.length - 2);
    const [from, to] = [Math.log(this.ratio(low)), Math.log(this.ratio(low + 1))];
    return low + Math.min(1, Math.max(0, (Math.log(ratio) - from) / (to - from)));
  }

  /** The time of `other` whose signal level is nearest to this schedule's at t (nearest angle φ). */
  snrEqual(t: number, other: NoiseSchedule): number {
    const want = this.phi(t);
    const low = other.#last((time) => other.phi(time) <= want, other.length - 2);
    return want - other.phi(low) <= other.phi(low + 1) - want ? low : low + 1;
  }

  /** The last time up to `most` of which `holds` is true, given that it turns false once; at least 0. */
  #last(holds: (t: number) => boolean, most: number): number {
    let [low, past] = [0, most + 1];
    while (past - low > 1) {
      const middle = (low + past) >> 1;
      if (holds(middle)) low = middle;
      else past = middle;
    }
    return low;
  }

  /**
   * `steps` sampling times, decreasing, as diffusers' DDIMScheduler makes them. Only trailing and
   * linspace start at the last time, where a zero-terminal schedule has pure noise.
   */
  timesteps(steps: number, spacing: Spacing = this.config.timestep_spacing): number[] {
    const { length } = this;
    if (!(Number.isInteger(steps) && steps >= 1 && steps <= length))
      throw badArgument('timesteps', `${steps} steps`, `take 1 to ${length}`);
    const times = grids[spacing](length, steps, this.config.steps_offset);
    if (times[0] >= length)
      throw badArgument(
        'timesteps',
        `${steps} ${spacing} steps with steps_offset ${this.config.steps_offset} reach t = ${times[0]}`,
        `take fewer steps or another spacing; the last time is ${length - 1}`,
      );
    return times;
  }
}

/** ᾱ of every time; Algorithm 1 of Lin et al. 2024 (arXiv 2305.08891) where asked for. */
function alphaBars(config: ScheduleConfig, where: string): Float64Array {
  const product = new Float64Array(config.num_train_timesteps);
  const betas = config.trained_betas ?? formulas[config.beta_schedule](config);
  if (betas.length !== product.length)
    throw new AttuneError(
      'BAD_CONFIG',
      `${where}: ${betas.length} trained_betas for num_train_timesteps ${product.length}.`,
      { where },
    );
  let bar = 1;
  betas.forEach((beta, t) => (product[t] = bar *= 1 - beta));
  if (!config.rescale_betas_zero_snr) return product;
  const roots = product.map(Math.sqrt);
  const first = roots[0];
  const last = roots[roots.length - 1];
  // Shift so that the last is 0, scale so that the first stays.
  return roots.map((root) => ((root - last) * (first / (first - last))) ** 2);
}

const formulas: Readonly<
  Record<ScheduleConfig['beta_schedule'], (config: ScheduleConfig) => number[]>
> = {
  linear: ({ beta_start, beta_end, num_train_timesteps }) =>
    linspace(beta_start, beta_end, num_train_timesteps),
  scaled_linear: ({ beta_start, beta_end, num_train_timesteps }) =>
    linspace(Math.sqrt(beta_start), Math.sqrt(beta_end), num_train_timesteps).map((b) => b * b),
  /** Nichol & Dhariwal 2021, equation 17, β at most 0.999. */
  squaredcos_cap_v2: ({ num_train_timesteps: length }) => {
    const bar = (t: number) => Math.cos(((t / length + 0.008) / 1.008) * (Math.PI / 2)) ** 2;
    return Array.from({ length }, (_, t) => Math.min(1 - bar(t + 1) / bar(t), 0.999));
  },
};

/** diffusers' grids in NumPy's arithmetic, so that ties fall the same way. */
const grids: Readonly<
  Record<Spacing, (length: number, steps: number, offset: number) => number[]>
> = {
  leading: (length, steps, offset) => {
    const ratio = Math.floor(length / steps);
    return Array.from({ length: steps }, (_, i) => (steps - 1 - i) * ratio + offset);
  },
  linspace: (length, steps) =>
    linspace(0, length - 1, steps)
      .map(roundEven)
      .toReversed(),
  trailing: (length, steps) => {
    const ratio = length / steps;
    const stride = length - ratio - length;
    return Array.from({ length: steps }, (_, i) => roundEven(length + i * stride) - 1);
  },
};

/** NumPy's linspace: the last value is `to` itself. */
export function linspace(from: number, to: number, count: number): number[] {
  const stride = count > 1 ? (to - from) / (count - 1) : 0;
  return Array.from({ length: count }, (_, i) =>
    i > 0 && i === count - 1 ? to : from + i * stride,
  );
}

/** Nearest integer, halves to even. */
export function roundEven(value: number): number {
  const near = Math.round(value);
  return near - value === 0.5 && near % 2 !== 0 ? near - 1 : near;
}
