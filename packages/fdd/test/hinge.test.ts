/** The hinge critic in one dimension, where what it should learn and how it should pull are known. */

import { adamw, type Params } from '@attune/core';
import { f32, OrtRuntime, Rng } from '@attune/engine';
import { afterAll, describe, expect, test } from 'vitest';

import { CriticConfig } from '../src/config.ts';
import { Critic } from '../src/critic.ts';

const runtime = new OrtRuntime({ threads: 1 });
afterAll(() => runtime.release());

const site = 'mid:unet.mid_block';

interface Normal {
  readonly mean: number;
  readonly deviation: number;
}

const heads = (count: number, generator: 'linear' | 'printed' = 'linear'): Critic =>
  new Critic(
    'c',
    new Map([[site, [count, 1, 1, 1]]]),
    { B: count, F: 1 },
    CriticConfig.parse({ width: 32, generator }),
    runtime,
  );

const samples = (values: Float32Array) => ({ [site]: f32(values, [values.length, 1, 1, 1]) });

/** Heads that have learned to tell two distributions apart, and the mean of their last losses. */
async function trained(real: Normal, fake: Normal): Promise<{ params: Params; loss: number }> {
  const critic = heads(128);
  const rng = Rng.of(3);
  const optimizer = adamw({ betas: [0, 0.99], weightDecay: 0 });
  let params: Params = critic.initial(rng.fork('init'));
  let state = optimizer.init(params);
  const losses: number[] = [];
  for (let step = 0; step < 300; step++) {
    const draw = (side: string, { mean, deviation }: Normal) =>
      samples(
        rng
          .fork(side, step)
          .normals([128])
          .data.map((z) => mean + deviation * z),
      );
    const turn = await critic.learn(params, draw('real', real), draw('fake', fake));
    [params, state] = optimizer.update(turn.grads, state, params, 3e-3 * (1 - step / 300));
    losses.push(turn.loss);
  }
  await critic.release();
  return { params, loss: losses.slice(-100).reduce((a, b) => a + b) / 100 };
}

/** D at given places, from the generator's score −D of one sample at a time. */
async function logits(params: Params, places: readonly number[]): Promise<number[]> {
  const one = heads(1);
  const found: number[] = [];
  for (const x of places) found.push(-(await one.judge(params, samples(Float32Array.of(x)))).score);
  await one.release();
  return found;
}

const grid = Array.from({ length: 81 }, (_, i) => (i - 40) / 20);

const density = (x: number, { mean, deviation }: Normal): number =>
  Math.exp(-(((x - mean) / deviation) ** 2) / 2) / (deviation * Math.sqrt(2 * Math.PI));

describe('the best critic between two Gaussians', () => {
  test.each<[string, Normal, Normal, number]>([
    ['of one width', { mean: 1, deviation: 1 }, { mean: -1, deviation: 1 }, 0],
    // (x − 1)² / (2 · 0.5²) + ln 0.5 = (x + 1)² / 2 has this root between them.
    [
      'of two widths',
      { mean: 1, deviation: 0.5 },
      { mean: -1, deviation: 1 },
      (5 - Math.sqrt(25 - 6 * (1.5 - Math.LN2))) / 3,
    ],
  ])('%s turns where both are equally likely', async (_, real, fake, threshold) => {
    expect(density(threshold, real)).toBeCloseTo(density(threshold, fake), 12);
    const { params, loss } = await trained(real, fake);
    const found = await logits(params, grid);
    for (const [i, x] of grid.entries())
      if (Math.abs(x - threshold) > 0.2)
        expect({ x, logit: Math.sign(found[i]) }).toEqual({ x, logit: Math.sign(x - threshold) });
    // D is 1 or −1 there, so that its loss is twice what the two have in common.
    let common = 0;
    for (let x = -8; x < 8; x += 0.01)
      common += 0.01 * Math.min(density(x, real), density(x, fake));
    expect(Math.abs(loss - 2 * common)).toBeLessThan(0.1 * 2 * common);
  });
});

/** Fresh heads whose logits all lie around `level`. */
function lifted(level: number): Params {
  const params = heads(1).initial(Rng.of(8));
  params['critic.c.heads.0.conv_out.bias'].fill(level);
  return params;
}

describe('derivatives by D', () => {
  const places = [-1.5, -0.5, 0.25, 1];

  test.each([
    ['linear', -2, -1],
    ['linear', 0, -1],
    ['linear', 2, -1],
    ['printed', -2, 0],
    ['printed', 0, -1],
    ['printed', 2, -1],
  ] as const)("the generator's %s term at D = %d: %d", async (form, level, slope) => {
    const params = lifted(level);
    const critic = heads(places.length, form);
    const { cotangents } = await critic.judge(params, samples(Float32Array.from(places)));
    await critic.release();
    const eps = 2e-3;
    const up = await logits(
      params,
      places.map((x) => x + eps),
    );
    const down = await logits(
      params,
      places.map((x) => x - eps),
    );
    const ofLogits = up.map((value, i) => (value - down[i]) / (2 * eps));
    const largest = Math.max(...ofLogits.map(Math.abs));
    expect(largest).toBeGreaterThan(0.01);
    for (const [i, ofLogit] of ofLogits.entries()) {
      expect(Math.abs(down[i] - level)).toBeLessThan(0.9);
      // The mean over the places, hence their number.
      const pull = cotangents[site].data[i] * places.length;
      expect(Math.abs(pull - slope * ofLogit)).toBeLessThan(0.01 * largest);
    }
  });

  test.each([
    [-2, -1, 0],
    [0, -1, 1],
    [2, 0, 1],
  ])(
    "the critic's loss at D = %d: %d for the real, %d for the generated",
    async (level, ...slopes) => {
      const critic = heads(places.length);
      const [real, fake] = [samples(Float32Array.from(places)), samples(new Float32Array(4))];
      const { grads } = await critic.learn(lifted(level), real, fake);
      await critic.release();
      const [slope] = grads['critic.c.heads.0.conv_out.bias'];
      expect(slope).toBeCloseTo(slopes[0] + slopes[1], 6);
    },
  );
});
