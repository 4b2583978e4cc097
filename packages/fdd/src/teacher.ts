/** A frozen teacher's pull on generated latents: score distillation, with named variants. */

import { type NoiseSchedule, toVelocity, mix } from '@attune/core';
import { badArgument, type F32Array, type Rng } from '@attune/engine';

import { addSds, diffuse, type Weighting } from './sds.ts';

/** Anything that denoises: a guided model, a fake score, a formula in a test. */
export interface Denoiser {
  /** Its own noise: x_t is formed with it, whatever schedule the student samples on. */
  readonly schedule: NoiseSchedule;
  /** The raw (guided) prediction at x_t [rows, …], all rows at time t. */
  predict(noisy: F32Array, t: number): Promise<F32Array> | F32Array;
}

/** An unedited original, and the teacher as it is shown it. */
export interface Origin {
  readonly denoiser: Denoiser;
  /** Its latents, shaped as the generated ones. */
  readonly x0: F32Array;
}

/** A teacher's score-distillation term. */
export interface SdsOptions {
  readonly weighting: Weighting;
  /** a · λ of the paper: the teacher's weight times that of its SDS term; may be negative. */
  readonly scale: number;
  /** Times drawn, as shares of T: [0.02, 0.98] by default. */
  readonly range?: readonly [number, number];
  /** Draws of (t, ε) that are averaged. */
  readonly samples?: number;
  /** The student's own score: subtracted instead of the noise (variational score distillation). */
  readonly fake?: Denoiser;
  /** An original: its residual at the same (t, ε) is subtracted (delta denoising score). Not beside `fake`. */
  readonly origin?: Origin;
  /** Share of what `fake` or `origin` takes off; the rest of the residual is against the noise. Default 1. */
  readonly share?: number;
}

/** Times from which a teacher is asked, both ends included. */
export function timeRange(
  { length }: NoiseSchedule,
  [low, high]: readonly [number, number] = [0.02, 0.98],
): readonly [number, number] {
  const first = Math.ceil(low * length);
  const last = Math.min(length - 1, Math.floor(high * length));
  if (first > last || first < 0)
    throw badArgument(
      'sds',
      `the time range [${low}, ${high}] of ${length} holds no time`,
      'widen it',
    );
  return [first, last];
}

/**
 * The cotangent on x₀ of one teacher's SDS term, mean over elements: scale · E[W(t) (v̂ − v)] / size.
 * With a fake score the residual is v̂ − (share · v̂_fake + (1 − share) · v), with an original
 * (v̂ − v) − share · (v̂ − v)(original). Draws come from `rng` alone.
 */
export async function sdsCotangent(
  teacher: Denoiser,
  x0: F32Array,
  { weighting, scale, range, samples = 1, fake, origin, share = 1 }: SdsOptions,
  rng: Rng,
): Promise<F32Array> {
  const { schedule } = teacher;
  const [first, last] = timeRange(schedule, range);
  const out = new Float32Array(x0.data.length);
  const factor = scale / (samples * out.length);
  for (let i = 0; i < samples; i++) {
    const draw = rng.fork(i);
    const t = first + draw.int(last - first + 1);
    const level = schedule.level(t);
    const noise = draw.normals(x0.shape);
    const velocity = async (from: Denoiser, clean = x0): Promise<Float32Array> => {
      const noisy: F32Array = { ...clean, data: diffuse(clean.data, noise.data, level) };
      return mix(toVelocity(from.schedule, t), noisy, await from.predict(noisy, t)).data;
    };
    const own = await velocity(teacher);
    let baseline = fake && (await velocity(fake));
    if (origin) {
      // v + (v̂ − v)(original): the two v differ by the clean latents alone.
      const { denoiser, x0: clean } = origin;
      baseline = await velocity(denoiser, clean);
      baseline.forEach((told, k) => {
        baseline![k] = told + level.sigma * (clean.data[k] - x0.data[k]);
      });
    }
    addSds(
      out,
      own,
      { x0: x0.data, noise: noise.data, ...(baseline ? { baseline, share } : {}) },
      level,
      { weighting, scale: factor },
    );
  }
  return { ...x0, data: out };
}
