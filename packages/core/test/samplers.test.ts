import { readFileSync } from 'node:fs';

import { type F32Array, f32 } from '@attune/engine';
import { describe, expect, test } from 'vitest';

import { readJson } from '../src/models/folder.ts';
import { ddim, ddimPlan } from '../src/schedule/ddim.ts';
import { dpmPlan } from '../src/schedule/dpm.ts';
import { eulerPlan } from '../src/schedule/euler.ts';
import { mix, toClean } from '../src/schedule/forms.ts';
import { lcmPlan } from '../src/schedule/lcm.ts';
import { NoiseSchedule, type PredictionType, type Spacing } from '../src/schedule/noise.ts';
import { type Plan, takeStep } from '../src/schedule/sampler.ts';

// Written by diffusers, whose schedules are f32.
const folder = new URL('../../../test/parity/fixtures/schedulers/', import.meta.url).pathname;
const read = (name: string): unknown => JSON.parse(readFileSync(folder + name, 'utf8'));
const base = { beta_start: 0.00085, beta_end: 0.012, beta_schedule: 'scaled_linear' } as const;
const vector = (values: readonly number[]) => f32(values, [values.length]);
const apart = (got: F32Array, want: readonly number[]) =>
  Math.max(...Array.from(got.data, (v, i) => Math.abs(v - want[i]))) /
  Math.max(1, ...want.map(Math.abs));

describe('noise', () => {
  test.each(Object.entries(read('alphas.json') as Record<string, number[]>))('%s', (name, want) => {
    const [beta_schedule, zero] = name.split('+');
    const schedule = NoiseSchedule.of({
      ...base,
      beta_schedule,
      rescale_betas_zero_snr: zero !== undefined,
      prediction_type: 'v_prediction',
    });
    const differences = want.map((bar, t) => Math.abs(schedule.alphaBar(t) - bar));
    expect(Math.max(...differences)).toBeLessThan(1e-6);
  });

  test('a config with -Infinity in it', () => {
    const config = readJson(`${folder}dpm/scheduler_config.json`);
    expect(NoiseSchedule.of(config).timesteps(4)[0]).toBe(999);
  });
});

interface Grid {
  readonly spacing: Spacing;
  readonly steps_offset: number;
  readonly steps: number;
  readonly timesteps: number[];
}
test('timesteps', () => {
  const grids = read('timesteps.json') as readonly Grid[];
  const got = grids.map(({ spacing, steps_offset, steps }) =>
    NoiseSchedule.of({ ...base, steps_offset }).timesteps(steps, spacing),
  );
  expect(got).toEqual(grids.map(({ timesteps }) => timesteps));
});

interface DdimRow {
  readonly prediction_type: PredictionType;
  readonly rescale_betas_zero_snr: boolean;
  readonly set_alpha_to_one: boolean;
  readonly timestep: number;
  readonly previous_timestep: number;
  readonly sample: number[];
  readonly prediction: number[];
  readonly previous_sample: number[];
  readonly pred_original_sample: number[];
}
test('single DDIM steps', () => {
  // We refuse ε with zero terminal SNR altogether.
  const rows = (read('ddim.json') as readonly DdimRow[]).filter(
    (row) => !(row.rescale_betas_zero_snr && row.prediction_type === 'epsilon'),
  );
  const errors = rows.map((row) => {
    const schedule = NoiseSchedule.of({ ...base, ...row });
    const next = row.previous_timestep >= 0 ? row.previous_timestep : null;
    const [x, p] = [vector(row.sample), vector(row.prediction)];
    const step = ddim(schedule, row.timestep, next, { landing: 'config' });
    const image = mix(toClean(schedule, row.timestep), x, p);
    return Math.max(
      apart(takeStep(step, x, p).x, row.previous_sample),
      apart(image, row.pred_original_sample),
    );
  });
  expect(rows).toHaveLength(40);
  expect(Math.max(...errors)).toBeLessThan(3e-6);
});

interface Trace {
  readonly sampler: 'ddim' | 'euler' | 'dpm++2m' | 'lcm';
  readonly config: Readonly<Record<string, unknown>>;
  readonly steps: number;
  readonly shift: number[];
  readonly timesteps: number[];
  readonly init_noise_sigma: number;
  readonly sigmas?: number[];
  readonly noises?: number[][];
  readonly states: number[][];
}

function planOf({ sampler, config, steps }: Trace): Plan {
  const schedule = NoiseSchedule.of(config);
  const karras = config.use_karras_sigmas === true;
  switch (sampler) {
    case 'ddim':
      return ddimPlan(schedule, steps);
    case 'euler':
      return eulerPlan(schedule, steps, { karras });
    case 'dpm++2m':
      return dpmPlan(schedule, steps, { karras });
    case 'lcm':
      return lcmPlan(schedule, steps);
    default:
      throw new TypeError(sampler);
  }
}

/** Every state of a run with the "net" 0.3 · x + shift, in our variance-preserving x. */
function run(plan: Plan, start: F32Array, { shift, noises = [] }: Trace): F32Array[] {
  const states = [start];
  let memory: F32Array | undefined;
  plan.steps.forEach((step, i) => {
    const x = states[i];
    const prediction = mix({ cx: 0.3, cp: 1 }, x, vector(shift));
    const next = takeStep({ ...step, cn: 0 }, x, prediction, { memory });
    memory = next.memory;
    states.push(
      i < noises.length ? mix({ cx: 1, cp: step.cn }, next.x, vector(noises[i])) : next.x,
    );
  });
  return states;
}

describe('whole runs', () => {
  const traces = (read('traces.json') as readonly Trace[]).map((trace) => {
    const {
      timestep_spacing: spacing,
      prediction_type: type,
      use_karras_sigmas: karras,
    } = trace.config;
    const zero = trace.config.rescale_betas_zero_snr === true;
    const name = `${trace.sampler} ${String(spacing)} ${String(type)} ${trace.steps}`;
    return { name: name + (karras ? ' karras' : '') + (zero ? ' zero-SNR' : ''), trace };
  });
  test.each(traces)('$name', ({ trace }) => {
    const { sampler, sigmas, init_noise_sigma, states, timesteps, config } = trace;
    const plan = planOf(trace);
    const times = plan.steps.map(({ t }) => t);
    expect(times.every((t, i) => Math.abs(t - timesteps[i]) < 2e-3)).toBe(true);
    expect(times).toHaveLength(timesteps.length);
    // diffusers' Euler keeps x over α: x = x_vp · √(σ² + 1).
    const scaled = sampler === 'euler';
    const scale = (i: number) => (scaled ? Math.hypot(1, sigmas?.[i] ?? 0) : 1);
    const noise = states[0].map((v) => v / init_noise_sigma);
    const start = vector(noise.map((v) => v * plan.start));
    const want = states.map((state, i) => state.map((v) => v / scale(i)));
    const errors = run(plan, start, trace).map((x, i) => apart(x, want[i]));
    // There diffusers puts 2⁻²⁴ for ᾱ = 0, that is √ᾱ = 2.4e-4.
    const patched = scaled && config.rescale_betas_zero_snr === true;
    expect(Math.max(...errors)).toBeLessThan(patched ? 3e-4 : 3e-6);
  });
});

test('plans refuse what they cannot do', () => {
  const zero = NoiseSchedule.of({
    ...base,
    prediction_type: 'v_prediction',
    rescale_betas_zero_snr: true,
  });
  expect(() => eulerPlan(zero, 4, { spacing: 'trailing', karras: true })).toThrow(/zero terminal/);
  expect(() => dpmPlan(zero, 1000, { spacing: 'linspace' })).toThrow(/take 1 to 999/);
  expect(() => lcmPlan(zero, 51)).toThrow(/original grid/);
  const [first, second] = dpmPlan(zero, 4, { spacing: 'trailing' }).steps;
  expect([first.cx, first.cp, second.cm].some(Number.isNaN)).toBe(false);
  const x = vector([1]);
  expect(() => takeStep({ ...first, cm: 1 }, x, x)).toThrow(/no memory/);
  expect(() => takeStep({ ...first, cn: 1 }, x, x)).toThrow(/no rng/);
});
