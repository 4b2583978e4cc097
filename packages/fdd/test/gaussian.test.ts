/** Score distillation with Gaussian teachers has closed forms: its fixed points, and how fast they are reached. */

import { f32, type F32Array, Rng } from '@attune/engine';
import { describe, expect, test } from 'vitest';

import {
  type Denoiser,
  type Level,
  sdsCotangent,
  type Weighting,
  weightings,
} from '../src/index.ts';
import { schedule } from './schedule.ts';

interface Gaussian {
  readonly mean: number;
  readonly deviation: number;
  /** The teacher's weight a. */
  readonly weight: number;
}

/** The exact velocity of data N(mean, deviation²). */
function denoiser(mean: () => number, deviation: () => number): Denoiser {
  return {
    schedule,
    predict: (noisy, t) => {
      const { alpha, sigma } = schedule.level(t);
      const [m, s2] = [mean(), deviation() ** 2];
      const gain = (alpha * s2) / (alpha * alpha * s2 + sigma * sigma);
      return {
        ...noisy,
        data: noisy.data.map((x) => {
          const clean = m + gain * (x - alpha * m);
          const noise = (x - alpha * clean) / sigma;
          return alpha * noise - sigma * clean;
        }),
      };
    },
  };
}

const teacher = ({ mean, deviation }: Gaussian): Denoiser =>
  denoiser(
    () => mean,
    () => deviation,
  );

/** κ(s) = E_t[W(t) · ∂(v̂ − v)/∂(x₀ − μ)] = E_t[w σ α / (α² s² + σ²)]. */
function kappa(s: number, weighting: Weighting): number {
  let sum = 0;
  for (let t = 0; t < schedule.length; t++) {
    const level: Level = schedule.level(t);
    const { alpha, sigma } = level;
    sum += (weightings[weighting](level) * sigma) / (alpha * alpha * s * s + sigma * sigma);
  }
  return sum / schedule.length;
}

/** The s at which the decreasing κ takes a value. */
function inverseKappa(value: number, weighting: Weighting): number {
  let [low, high] = [1e-3, 10];
  for (let i = 0; i < 80; i++) {
    const middle = (low + high) / 2;
    if (kappa(middle, weighting) > value) low = middle;
    else high = middle;
  }
  return low;
}

/** Gradient descent of the student x = m + L z; returns the mean of (m, |L|) over its last third. */
async function descend(
  teachers: readonly Gaussian[],
  weighting: Weighting,
  { steps = 3000, batch = 256, rate = 0.05, share = 0 } = {},
): Promise<{ mean: number; deviation: number }> {
  const rng = Rng.of(5);
  let [m, l] = [0.5, 1.5];
  const fake = denoiser(
    () => m,
    () => Math.abs(l),
  );
  const tail = { mean: 0, deviation: 0, count: 0 };
  for (let step = 0; step < steps; step++) {
    const z = rng.fork('z', step).normals([batch, 1]);
    const x0: F32Array = f32(
      z.data.map((value) => m + l * value),
      [batch, 1],
    );
    let [dm, dl] = [0, 0];
    for (const [i, one] of teachers.entries()) {
      const cotangent = await sdsCotangent(
        teacher(one),
        x0,
        {
          weighting,
          scale: one.weight,
          range: [0, 1],
          samples: 4,
          ...(share > 0 ? { fake, share } : {}),
        },
        rng.fork('draw', step, i),
      );
      cotangent.data.forEach((g, k) => {
        dm += g;
        dl += g * z.data[k];
      });
    }
    m -= rate * dm;
    l -= rate * dl;
    if (step < (2 * steps) / 3) continue;
    tail.mean += m;
    tail.deviation += Math.abs(l);
    tail.count++;
  }
  return { mean: tail.mean / tail.count, deviation: tail.deviation / tail.count };
}

const pair: readonly Gaussian[] = [
  { mean: 1, deviation: 0.5, weight: 0.5 },
  { mean: -1, deviation: 1, weight: 0.5 },
];

/** Where SDS ends: Σ a κ(s) μ / Σ a κ(s). */
function fixedPoint(teachers: readonly Gaussian[], weighting: Weighting): number {
  const pull = teachers.map(({ deviation, weight }) => weight * kappa(deviation, weighting));
  const total = pull.reduce((a, b) => a + b, 0);
  return teachers.reduce((sum, { mean }, i) => sum + (pull[i] * mean) / total, 0);
}

describe('closed forms', () => {
  test.each([
    ['dreamfusion', 0.22959, 0.16834, 0.1539, 0.7227],
    ['uniform', 0.50548, 0.29856, 0.2573, 0.6936],
  ] as const)('%s', (weighting, half, one, mean, deviation) => {
    expect(kappa(0.5, weighting)).toBeCloseTo(half, 4);
    expect(kappa(1, weighting)).toBeCloseTo(one, 4);
    expect(fixedPoint(pair, weighting)).toBeCloseTo(mean, 3);
    expect(inverseKappa((half + one) / 2, weighting)).toBeCloseTo(deviation, 3);
  });
});

describe('SDS reaches its fixed point and collapses the variance', () => {
  const three = [...pair, { mean: 3, deviation: 2, weight: 0.25 }];
  test.each([
    ['one teacher', [{ mean: 1, deviation: 0.5, weight: 1 }]],
    ['two teachers', pair],
    ['three teachers', three],
    ['a negative weight', [...pair, { mean: 0, deviation: 2, weight: -0.2 }]],
  ] as const)('%s', async (_, teachers) => {
    const { mean, deviation } = await descend(teachers, 'uniform');
    expect(Math.abs(mean - fixedPoint(teachers, 'uniform'))).toBeLessThan(0.02);
    expect(deviation).toBeLessThan(0.02);
  });
});

test('a fake score keeps the mean and restores the variance', async () => {
  const { mean, deviation } = await descend(pair, 'uniform', { share: 1 });
  expect(Math.abs(mean - 0.2573)).toBeLessThan(0.03);
  expect(Math.abs(deviation - 0.6936)).toBeLessThan(0.03);
});

test('a share of it restores a part: κ(s) = Σ â κ(s_i) / share', async () => {
  const share = 0.9;
  const pull = pair.reduce(
    (sum, { deviation, weight }) => sum + weight * kappa(deviation, 'uniform'),
    0,
  );
  const expected = inverseKappa(pull / share, 'uniform');
  expect(expected).toBeLessThan(0.65);
  const { mean, deviation } = await descend(pair, 'uniform', { share });
  expect(Math.abs(mean - 0.2573)).toBeLessThan(0.03);
  expect(Math.abs(deviation - expected)).toBeLessThan(0.03);
});

test('the pull has the size of the closed form', async () => {
  const x0 = f32(new Float32Array(4096).fill(2), [4096, 1]);
  const one = { mean: 1, deviation: 0.5, weight: 1 };
  const options = { weighting: 'uniform', scale: 1, range: [0, 1], samples: 500 } as const;
  const { data } = await sdsCotangent(teacher(one), x0, options, Rng.of(9));
  const total = data.reduce((a, b) => a + b, 0);
  expect(total).toBeCloseTo(kappa(0.5, 'uniform') * (2 - 1), 1);
});

test('an original takes the bias off, and the noise with it: a pull of one draw is exact', async () => {
  const x0 = f32([2, -1, 0.5], [3, 1]);
  const origin = {
    denoiser: denoiser(
      () => 0.4,
      () => 0.5,
    ),
    x0: f32([1, 1, 1], [3, 1]),
  };
  const one = { mean: 1, deviation: 0.5, weight: 1 };
  const options = { weighting: 'uniform', scale: 3, range: [0.5, 0.5], samples: 1 } as const;
  const pull = async (seed: number, more: object): Promise<number[]> => {
    const rng = Rng.of(seed);
    const { data } = await sdsCotangent(teacher(one), x0, { ...options, ...more }, rng);
    return [...data];
  };
  // At one time the pull of a Gaussian teacher is linear: w σ α / (α² s² + σ²) of (x − μ) − (x_o − μ_o).
  const { alpha, sigma } = schedule.level(500);
  const factor = (alpha * sigma) / (alpha ** 2 * 0.25 + sigma ** 2);
  const expected = [...x0.data].map((x) => factor * (x - 1 - (1 - 0.4)));
  const [first, second] = [await pull(1, { origin }), await pull(2, { origin })];
  first.forEach((value, i) => expect(value).toBeCloseTo(expected[i], 5));
  second.forEach((value, i) => expect(value).toBeCloseTo(expected[i], 5));
  const [plain, other] = [await pull(1, {}), await pull(2, {})];
  expect(Math.max(...plain.map((x, i) => Math.abs(x - other[i])))).toBeGreaterThan(0.01);
  const half = await pull(1, { origin, share: 0.5 });
  half.forEach((value, i) => expect(value).toBeCloseTo((first[i] + plain[i]) / 2, 5));
});

test('at zero signal the residual is finite and its ε-form vanishes', () => {
  const last = schedule.level(schedule.length - 1);
  expect(last.alpha).toBe(0);
  expect(weightings.uniform(last)).toBe(0);
  expect(weightings.add(last)).toBe(0);
  expect(weightings.x0(last)).toBe(1);
});
