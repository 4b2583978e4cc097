/** examples/attune-heun-sampler as a user has it: found by name, named in `sampling`, of second order. */

import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import {
  ddimPlan,
  findPlugins,
  mix,
  NoiseSchedule,
  openSampler,
  type Plan,
  PluginLoader,
  Sampling,
  takeStep,
} from '@attune/core';
import { type F32Array, f32 } from '@attune/engine';
import { describe, expect, test } from 'vitest';

const loader = new PluginLoader(
  findPlugins('packages/cli', [resolve('examples/attune-heun-sampler')]),
);
const base = { beta_start: 0.00085, beta_end: 0.012, beta_schedule: 'scaled_linear' } as const;

const vector = (values: readonly number[]): F32Array => f32(values, [values.length]);

interface Trace {
  readonly config: Record<string, unknown>;
  readonly steps: number;
  readonly shift: number[];
  readonly timesteps: number[];
  readonly init_noise_sigma: number;
  readonly sigmas: number[];
  readonly states: number[][];
}

describe("equals diffusers' HeunDiscreteScheduler, call by call", () => {
  const file = 'test/parity/fixtures/schedulers/heun.json';
  const traces = (JSON.parse(readFileSync(file, 'utf8')) as readonly Trace[]).map((trace) => ({
    name: `${String(trace.config.timestep_spacing)} ${String(trace.config.prediction_type)}`,
    trace,
  }));
  test.each(traces)('$name', async ({ trace }) => {
    const { config, steps, shift, timesteps, init_noise_sigma: first, sigmas, states } = trace;
    const plan = (await openSampler('heun', loader))(NoiseSchedule.of(config), steps);
    expect(plan.steps).toHaveLength(2 * steps - 1);
    expect(plan.steps.every(({ t }, i) => Math.abs(t - timesteps[i]) < 1e-3)).toBe(true);
    let x = vector(states[0].map((v) => (v / first) * plan.start));
    let memory: F32Array | undefined;
    plan.steps.forEach((step, i) => {
      const prediction = mix({ cx: 0.3, cp: 1 }, x, vector(shift));
      const next = takeStep(step, x, prediction, { memory });
      ({ x } = next);
      memory = next.memory;
      // diffusers keeps x over α: x = x_vp · √(σ² + 1).
      const scale = Math.hypot(1, sigmas[i + 1]);
      const largest = Math.max(1, ...states[i + 1].map(Math.abs)) / scale;
      for (const [j, value] of x.data.entries())
        expect(Math.abs(value - states[i + 1][j] / scale) / largest).toBeLessThan(3e-6);
    });
  });
});

describe('converges as its order says, on a Gaussian whose flow is known', () => {
  const [mean, deviation] = [0.7, 0.5];

  /** What a perfect net predicts for data of that mean and deviation. */
  const ideal = (schedule: NoiseSchedule, x: number, t: number): number => {
    const { alpha, sigma } = schedule.level(t);
    const noise = (sigma * (x - alpha * mean)) / ((alpha * deviation) ** 2 + sigma ** 2);
    return schedule.predictionType === 'epsilon'
      ? noise
      : alpha * noise - (sigma * (x - sigma * noise)) / alpha;
  };

  const run = (schedule: NoiseSchedule, { steps }: Plan, start: number): number => {
    let x = start;
    let memory = 0;
    for (const { t, cx, cp, cm = 0, memory: kept } of steps) {
      const p = ideal(schedule, x, t);
      const next = cx * x + cp * p + cm * memory;
      if (kept) memory = kept.cx * x + kept.cp * p;
      x = next;
    }
    return x;
  };

  /** Along the flow to the last time, in x / α and r = σ / α; then the clean estimate, as the last step is. */
  const truth = (schedule: NoiseSchedule, times: readonly number[], start: number): number => {
    const spread = (t: number): number => Math.hypot(deviation, schedule.ratio(t));
    const [first, last] = [times[0], times[times.length - 1]];
    const end = mean + ((start / schedule.alpha(first) - mean) * spread(last)) / spread(first);
    return mean + (end - mean) * (deviation / spread(last)) ** 2;
  };

  test.each(['epsilon', 'v_prediction'] as const)('%s', async (prediction_type) => {
    const schedule = NoiseSchedule.of({ ...base, prediction_type });
    const heun = await openSampler({ use: 'heun', karras: true }, loader);
    const errors = [16, 32, 64, 128].map((steps) => {
      const plan = heun(schedule, steps);
      const times = plan.steps
        .flatMap(({ t, memory }, i) => (memory || i === plan.steps.length - 1 ? [t] : []))
        .filter((t, i, all) => t !== all[i - 1]);
      expect(times).toHaveLength(steps);
      const want = truth(schedule, times, 1.3);
      return {
        heun: Math.abs(run(schedule, plan, 1.3) - want),
        ddim: Math.abs(run(schedule, ddimPlan(schedule, times), 1.3) - want),
      };
    });
    const orders = (key: 'heun' | 'ddim'): number[] =>
      errors.slice(1).map((error, i) => Math.log2(errors[i][key] / error[key]));
    for (const order of orders('heun')) expect(order).toBeGreaterThan(1.8);
    for (const order of orders('heun')) expect(order).toBeLessThan(2.6);
    for (const order of orders('ddim')) expect(order).toBeLessThan(1.3);
    // For as many calls of the net.
    expect(errors[2].heun).toBeLessThan(errors[3].ddim / 5);
  });
});

describe('a sampler by name', () => {
  const zero = {
    ...base,
    prediction_type: 'v_prediction',
    rescale_betas_zero_snr: true,
    timestep_spacing: 'trailing',
  } as const;

  test('from pure noise its first step is DDIM’s, and all is finite', async () => {
    const schedule = NoiseSchedule.of(zero);
    const { start, steps } = (await openSampler('heun', loader))(schedule, 4);
    expect(start).toBe(1);
    expect(steps).toHaveLength(6);
    const first = ddimPlan(schedule, 4).steps[0];
    expect(steps[0]).toEqual(first);
  });

  test.each([
    ['ddim', {}],
    ['euler', { spacing: 'trailing' }],
    ['dpmpp-2m', { karras: false }],
    ['lcm', { original: 20 }],
    ['heun', { spacing: 'trailing' }],
  ])('%s comes in through the same door', async (use, options) => {
    const { sampler } = Sampling.parse({ sampler: { use, ...options } });
    const plan = (await openSampler(sampler, loader))(NoiseSchedule.of(zero), 4);
    expect(plan.steps.length).toBeGreaterThanOrEqual(4);
    expect(plan.steps[0].t).toBe(999);
  });

  test('what is misspelled is named with what is near', async () => {
    await expect(openSampler('hein', loader)).rejects.toThrow(
      /No plugin contributes samplers "hein"; known: .*ddim.*; nearest: heun/,
    );
    await expect(openSampler({ use: 'heun', karass: true }, loader)).rejects.toThrow(
      /sampler heun: .*did you mean "karras"/,
    );
    expect(() => Sampling.parse({ sampler: { karras: true } })).toThrow(/use/);
  });

  test.each([
    ['nothing', '{ start: 1, steps: [] }', /has no steps/],
    [
      'what is not finite',
      '{ start: 1, steps: [{ t: 9, cx: NaN, cp: 1, cn: 0 }] }',
      /step 0 is not finite/,
    ],
    [
      'a memory that it has not',
      '{ start: 1, steps: [{ t: 9, cx: 1, cp: 1, cn: 0, cm: 1 }] }',
      /step 0 has nothing to remember/,
    ],
  ])('a plan of %s is refused with the sampler’s name', async (_, plan, message) => {
    const folder = join(mkdtempSync(join(tmpdir(), 'sampler-')), 'bad');
    mkdirSync(folder);
    const attune = { scope: 'bad', api: 1, contributes: { samplers: ['plan'] } };
    writeFileSync(
      join(folder, 'package.json'),
      JSON.stringify({ name: 'bad', type: 'module', exports: './index.js', attune }),
    );
    writeFileSync(
      join(folder, 'index.js'),
      `const options = { safeParse: (data) => ({ success: true, data }) };
       const plan = { options, create: () => () => (${plan}) };
       export default { api: 1, contributes: { samplers: { plan } } };`,
    );
    const sampler = await openSampler('bad/plan', new PluginLoader(findPlugins(folder, [folder])));
    expect(() => sampler(NoiseSchedule.of(base), 4)).toThrow(message);
    expect(() => sampler(NoiseSchedule.of(base), 4)).toThrow(/bad\/plan/);
  });
});
