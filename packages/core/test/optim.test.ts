import { readFileSync } from 'node:fs';

import { openSafetensors, Rng } from '@attune/engine';
import { describe, expect, test } from 'vitest';

import {
  adamw,
  type Arrays,
  clipByGlobalNorm,
  clipByGlobalNormInPlace,
  copyArrays,
  globalNorm,
} from '../src/train/optim.ts';
import { emaDecay, emaUpdate, emaUpdateInPlace, learningRate } from '../src/train/rates.ts';

const folder = new URL('../../../test/parity/fixtures/training/', import.meta.url).pathname;
// Written by torch in f64; inputs are exact f32 values.
const golden = openSafetensors(`${folder}optim.safetensors`);
const names = ['a', 'b'];
const values = (name: string) => Float32Array.from(golden.read(name).data as Float32Array);
const group = (prefix: string): Arrays =>
  Object.fromEntries(names.map((name) => [name, values(`${prefix}.${name}`)]));

/** Largest difference relative to the largest value wanted. */
function far(got: Arrays, want: Arrays): number {
  const differences = names.flatMap((name) =>
    Array.from(got[name], (value, i) => Math.abs(value - want[name][i])),
  );
  return (
    Math.max(...differences) / Math.max(...names.flatMap((name) => [...want[name]].map(Math.abs)))
  );
}

const variants = {
  plain: { lr: 1e-2, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0 },
  decayed: { lr: 3e-2, betas: [0.8, 0.95], eps: 1e-4, weightDecay: 0.1 },
  critic: { lr: 2e-3, betas: [0, 0.99], eps: 1e-8, weightDecay: 0.01 },
} as const;

describe('adamw', () => {
  test.each(['plain', 'decayed', 'critic'] as const)('%s equals torch.optim.AdamW', (variant) => {
    const optimizer = adamw(variants[variant]);
    let params = group(`adamw.${variant}.init`);
    let state = optimizer.init(params);
    for (let step = 0; step < 5; step++) {
      const grads = group(`adamw.${variant}.grad${step}`);
      [params, state] = optimizer.update(grads, state, params);
      expect(far(params, group(`adamw.${variant}.step${step}`))).toBeLessThan(3e-7);
    }
    expect(far(state.mean, group(`adamw.${variant}.exp_avg`))).toBeLessThan(3e-7);
    expect(far(state.square, group(`adamw.${variant}.exp_avg_sq`))).toBeLessThan(3e-7);
    expect(state.step).toBe(5);
  });

  test('in place gives the same bits, the other form touches nothing', () => {
    const optimizer = adamw({ betas: [0.9, 0.99] });
    const params = group('adamw.plain.init');
    const grads = group('adamw.plain.grad0');
    const state = optimizer.init(params);
    const before = copyArrays(params);
    const [next, after] = optimizer.update(grads, state, params, 1e-3);
    expect(params).toEqual(before);
    expect(globalNorm(state.mean)).toBe(0);
    const last = optimizer.updateInPlace(grads, state, params, 1e-3);
    expect(params).toEqual(next);
    expect(last).toEqual(after);
    expect(last.mean).toBe(state.mean);
  });

  test('a scale on the rate is a smaller rate', () => {
    const [params, grads] = [group('adamw.plain.init'), group('adamw.plain.grad0')];
    const [half] = adamw({ lr: 0.1 }).update(grads, adamw().init(params), params, 0.5);
    const [same] = adamw({ lr: 0.05 }).update(grads, adamw().init(params), params);
    expect(half).toEqual(same);
  });

  test('names and sizes must agree', () => {
    const optimizer = adamw();
    const params = { a: new Float32Array(2) };
    const state = optimizer.init(params);
    expect(() => optimizer.update({}, state, params)).toThrow(/"a" has 2,no,2,2 values/);
    expect(() => optimizer.update({ a: new Float32Array(3) }, state, params)).toThrow(/2,3,2,2/);
    const stray = { a: new Float32Array(2), b: new Float32Array(1) };
    expect(() => optimizer.update(stray, state, params)).toThrow(/a gradient for "b"/);
  });
});

describe('clipping', () => {
  test.each([
    ['clipped', 0.7],
    ['untouched', 100],
  ] as const)('%s equals torch', (variant, max) => {
    const { grads, norm, finite } = clipByGlobalNorm(group(`clip.${variant}.in`), { max });
    expect(norm).toBeCloseTo(values(`clip.${variant}.norm`)[0], 5);
    expect(finite).toBe(true);
    expect(far(grads, group(`clip.${variant}.out`))).toBeLessThan(2e-7);
  });

  test('divides by the number of micro-batches first', () => {
    const grads = { a: Float32Array.of(6, 8, 0) };
    expect(clipByGlobalNormInPlace(grads, { divisor: 2, max: 10 })).toBe(5);
    expect([...grads.a]).toEqual([3, 4, 0]);
    expect(clipByGlobalNormInPlace(grads, { max: 0 })).toBe(5);
    expect([...grads.a]).toEqual([3, 4, 0]);
  });

  test.each([Number.NaN, Number.POSITIVE_INFINITY])('%d is seen and left', (bad) => {
    const grads = { a: Float32Array.of(1, bad), b: Float32Array.of(2) };
    const clipped = clipByGlobalNorm(grads, { max: 1, divisor: 4 });
    expect(clipped.finite).toBe(false);
    expect(clipped.grads).toEqual(grads);
  });
});

describe('averaged weights', () => {
  test.each([
    ['constant', { decay: 0.9, start: 1 }],
    ['ramp', { decay: 0.5, warmup: 'ramp', start: 2 }],
    ['warmup', { decay: 0.9999, warmup: { gamma: 1, power: 0.75 }, start: 1 }],
  ] as const)('%s equals diffusers', (variant, options) => {
    let average: Arrays = { p: values(`ema.${variant}.init`) };
    const decays = values(`ema.${variant}.decays`);
    for (let update = 0; update < 5; update++) {
      expect(emaDecay(options, update)).toBeCloseTo(decays[update], 6);
      average = emaUpdate(
        average,
        { p: values(`ema.${variant}.params${update}`) },
        options,
        update,
      );
      const want = values(`ema.${variant}.shadow${update}`);
      expect(Math.max(...average.p.map((v, i) => Math.abs(v - want[i])))).toBeLessThan(2e-7);
    }
  });

  test('half of it is new after the half-life', () => {
    const average = { p: Float32Array.of(0) };
    const params = { p: Float32Array.of(1) };
    for (let n = 0; n < 100; n++) emaUpdateInPlace(average, params, { halfLife: 100 }, n);
    expect(average.p[0]).toBeCloseTo(0.5, 5);
    expect(() => emaDecay({ decay: 0.9, halfLife: 3 }, 0)).toThrow(/one of them/);
    expect(() => emaDecay({ decay: 1.1 }, 0)).toThrow(/0 … 1/);
    expect(() => emaUpdateInPlace(average, {}, {}, 0)).toThrow(/"p" has no values/);
  });
});

describe('learning rates', () => {
  interface Row {
    readonly schedule: string;
    readonly warmup: number;
    readonly steps: number;
    readonly factors: readonly number[];
  }
  const rows = JSON.parse(readFileSync(`${folder}rates.json`, 'utf8')) as readonly Row[];
  const ours = {
    constant: { schedule: 'constant' },
    constant_with_warmup: { schedule: 'constant' },
    linear: { schedule: 'linear' },
    cosine: { schedule: 'cosine' },
    // Of power 1, down to a rate of 1e-7.
    polynomial: { schedule: 'linear', floor: 1e-7 },
  } as const;
  test.each(rows)('$schedule equals diffusers', ({ schedule, warmup, steps, factors }) => {
    const options = { lr: 2, warmup, steps, ...ours[schedule as keyof typeof ours] };
    const got = factors.map((_, update) => learningRate(options, update) / 2);
    expect(Math.max(...got.map((rate, i) => Math.abs(rate - factors[i])))).toBeLessThan(1e-12);
  });

  test('a falling schedule needs its end', () => {
    expect(() => learningRate({ lr: 1, schedule: 'cosine' }, 0)).toThrow(/give steps/);
    expect(learningRate({ lr: 1, schedule: 'linear', steps: 10 }, 99)).toBe(0);
  });
});

test('trains a line through noisy points', () => {
  const rng = Rng.of(3);
  const optimizer = adamw({ lr: 0.05, weightDecay: 0 });
  const params = { line: new Float32Array(2) };
  let state = optimizer.init(params);
  for (let step = 0; step < 400; step++) {
    const x = rng.normal();
    const error = params.line[0] * x + params.line[1] - (2 * x - 1);
    const grads = { line: Float32Array.of(error * x, error) };
    state = optimizer.updateInPlace(
      grads,
      state,
      params,
      learningRate({ lr: 1, schedule: 'linear', steps: 400 }, step),
    );
  }
  expect(params.line[0]).toBeCloseTo(2, 1);
  expect(params.line[1]).toBeCloseTo(-1, 1);
});
