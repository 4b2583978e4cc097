/** Teachers with two modes: score distillation ends in one, fake scores and critics keep both. */

import { adamw, guide } from '@attune/core';
import { f32, type F32Array, OrtRuntime, Rng } from '@attune/engine';
import { afterAll, describe, expect, test } from 'vitest';

import { CriticConfig } from '../src/config.ts';
import { Critic } from '../src/critic.ts';
import { type Denoiser, sdsCotangent } from '../src/index.ts';
import { schedule } from './schedule.ts';

const runtime = new OrtRuntime({ threads: 1 });
afterAll(() => runtime.release());

const means = [-2, 2];
const DEVIATION = 0.4;

/** The exact velocity of data that are an even mixture of N(mean, deviation²). */
function mixture(centres: readonly number[] | Float32Array, deviation: number): Denoiser {
  return {
    schedule,
    predict: (noisy, t) => {
      const { alpha, sigma } = schedule.level(t);
      const spread = (alpha * deviation) ** 2 + sigma ** 2;
      const gain = (alpha * deviation ** 2) / spread;
      return {
        ...noisy,
        data: noisy.data.map((x) => {
          // E[x₀ | x] is the mean over centres, weighted by how likely each is.
          const far = centres.map((centre) => (x - alpha * centre) ** 2 / (2 * spread));
          const nearest = Math.min(...far);
          let [total, clean] = [0, 0];
          for (let i = 0; i < far.length; i++) {
            const weight = Math.exp(nearest - far[i]);
            total += weight;
            clean += weight * (centres[i] + gain * (x - alpha * centres[i]));
          }
          clean /= total;
          return (alpha * (x - alpha * clean)) / sigma - sigma * clean;
        }),
      };
    },
  };
}

const teacher = mixture(means, DEVIATION);

/** A student that is so many free points: the best that any generator could do. */
const points = (count: number, mean: number, deviation: number): Float32Array =>
  Rng.of(1)
    .normals([count])
    .data.map((z) => mean + deviation * z);

type Range = readonly [number, number];
type Pull = (x0: F32Array, rng: Rng) => Promise<F32Array>;

/** Points that are nearest to one mode. */
interface Mode {
  readonly share: number;
  readonly mean: number;
  readonly deviation: number;
}

/** The points after a descent along a pull, by mode. */
async function descend(
  x: Float32Array,
  pull: Pull,
  { steps = 400, rate = 0.05 } = {},
): Promise<Mode[]> {
  const [rng, optimizer] = [Rng.of(5), adamw({ betas: [0, 0.99], weightDecay: 0 })];
  let params: Readonly<Record<string, Float32Array>> = { x };
  let state = optimizer.init(params);
  for (let step = 0; step < steps; step++) {
    const x0 = f32(params.x, [x.length, 1, 1, 1]);
    const { data } = await pull(x0, rng.fork('step', step));
    [params, state] = optimizer.update({ x: data }, state, params, rate * (1 - step / steps));
  }
  return means.map((centre) => {
    const own = [...params.x].filter((one) => one < 0 === centre < 0);
    const mean = own.reduce((a, b) => a + b, 0) / own.length;
    const square = own.reduce((sum, one) => sum + (one - mean) ** 2, 0) / own.length;
    return { share: own.length / x.length, mean, deviation: Math.sqrt(square) };
  });
}

/** The pull of a critic that learns beside the points. */
function critic(count: number): Pull {
  const config = CriticConfig.parse({ width: 32, loss: 'hinge' });
  const heads = new Critic(
    'c',
    new Map([[site, [count, 1, 1, 1]]]),
    { B: count, F: 1 },
    config,
    runtime,
  );
  const optimizer = adamw({ betas: [0, 0.99], weightDecay: 0 });
  let params: Readonly<Record<string, Float32Array>> = heads.initial(Rng.of(3));
  let state = optimizer.init(params);
  return async (fake, rng) => {
    const draw = rng.fork('real');
    const real = fake.data.map(() => draw.pick(means) + DEVIATION * draw.normal());
    for (let i = 0; i < 2; i++) {
      const { grads } = await heads.learn(
        params,
        { [site]: { ...fake, data: real } },
        { [site]: fake },
      );
      [params, state] = optimizer.update(grads, state, params, 2e-3);
    }
    return (await heads.judge(params, { [site]: fake })).cotangents[site];
  };
}

const site = 'mid:unet.mid_block';
const options = { weighting: 'add', scale: 1, range: [0.02, 0.98], samples: 4 } as const;

/** Modes that are not where the teacher's are, or that are a point or too wide. */
const faults = (found: readonly Mode[]): Mode[] =>
  found.filter(
    ({ share, mean, deviation }, i) =>
      share < 0.25 ||
      Math.abs(mean - means[i]) > 0.3 ||
      deviation < 0.75 * DEVIATION ||
      deviation > 1.5 * DEVIATION,
  );

describe('a student that begins beside one of two modes', () => {
  const start = points(96, 1.5, 0.5);

  test('ends in that mode, as a point, by score distillation alone', async () => {
    const found = await descend(start, (x0, rng) => sdsCotangent(teacher, x0, options, rng));
    expect(found.map(({ share }) => share)).toEqual([0, 1]);
    expect(found[1].mean).toBeGreaterThan(1);
    expect(found[1].deviation).toBeLessThan(0.1);
  });

  test('is spread over both by a fake score', async () => {
    const found = await descend(start, (x0, rng) =>
      sdsCotangent(teacher, x0, { ...options, fake: mixture(x0.data, 0) }, rng),
    );
    expect(faults(found)).toEqual([]);
  });
});

describe('a student that begins between two modes', () => {
  const start = points(64, 0, 1);

  test('makes a point of each by score distillation alone', async () => {
    const found = await descend(start, (x0, rng) => sdsCotangent(teacher, x0, options, rng));
    for (const { deviation } of found) expect(deviation).toBeLessThan(0.1);
  });

  test('has their places and widths by a critic', async () => {
    const found = await descend(start, critic(start.length), { steps: 300, rate: 0.04 });
    expect(faults(found)).toEqual([]);
  });
});

describe("the mean of a teacher's pull", () => {
  const right = mixture([2], DEVIATION);
  const guided = (scale: number): Denoiser => ({
    schedule,
    predict: async (noisy, t) =>
      guide(
        { none: await teacher.predict(noisy, t), full: await right.predict(noisy, t) },
        { convention: 'uncond+s*delta', terms: [{ base: 'none', cond: 'full', scale }] },
        1,
      ),
  });

  /** Over fresh samples and draws of (t, ε): in standard errors of itself. */
  async function pulled(
    of: Denoiser,
    { centres, shift = 0, range }: { centres: readonly number[]; shift?: number; range: Range },
  ): Promise<number> {
    const all: number[] = [];
    for (let i = 0; i < 300; i++) {
      const draw = Rng.of(9).fork(i);
      const samples = Float32Array.from(
        { length: 64 },
        () => draw.pick(centres) + DEVIATION * draw.normal() + shift,
      );
      const once = { ...options, range, samples: 1 };
      const { data } = await sdsCotangent(of, f32(samples, [64, 1]), once, draw.fork('sds'));
      all.push(data.reduce((a, b) => a + b, 0));
    }
    const mean = all.reduce((a, b) => a + b, 0) / all.length;
    const square = all.reduce((sum, one) => sum + (one - mean) ** 2, 0) / (all.length - 1);
    return Math.abs(mean) / Math.sqrt(square / all.length);
  }

  const early: Range = [0.6, 0.98];
  const middle: Range = [0.3, 0.6];

  test.each([early, middle, [0.02, 0.3]] as const)(
    'is zero on its own samples and not on others, at %d to %d of T',
    async (...range) => {
      expect(await pulled(teacher, { centres: means, range })).toBeLessThan(4);
      expect(await pulled(teacher, { centres: means, range, shift: 0.2 })).toBeGreaterThan(8);
    },
  );

  // Later, nothing but the place tells which mode it was, so that a condition has nothing to add.
  test.each([early, middle])('is not zero under guidance, at %d to %d of T', async (...range) => {
    expect(await pulled(guided(1), { centres: [2], range })).toBeLessThan(4);
    expect(await pulled(guided(3), { centres: [2], range })).toBeGreaterThan(8);
    expect(await pulled(guided(0), { centres: [2], range })).toBeGreaterThan(8);
  });
});
