import { AttuneError, f32, Rng } from '@attune/engine';
import { describe, expect, test } from 'vitest';

import { binEdges, kBin } from '../src/schedule/bins.ts';
import { ddim, jumps } from '../src/schedule/ddim.ts';
import {
  mix,
  noised,
  type Pair,
  target,
  toClean,
  toNoise,
  toVelocity,
} from '../src/schedule/forms.ts';
import { NoiseSchedule, type PredictionType } from '../src/schedule/noise.ts';
import { takeStep } from '../src/schedule/sampler.ts';

const sd = { beta_start: 0.00085, beta_end: 0.012, beta_schedule: 'scaled_linear' } as const;
const plain = NoiseSchedule.of(sd);
const zero = NoiseSchedule.of({
  ...sd,
  rescale_betas_zero_snr: true,
  prediction_type: 'v_prediction',
});
const times = [0, 99, 249, 332, 499, 666, 749, 998, 999];
const types: readonly PredictionType[] = ['epsilon', 'v_prediction', 'sample'];
const at = ({ cx, cp }: Pair, x: number, p: number) => cx * x + cp * p;
const rounded = (schedule: NoiseSchedule) => times.map((t) => schedule.alpha(t).toFixed(6));
const classConfig = (name: string) => NoiseSchedule.of({ _class_name: name }).config;

describe('noise', () => {
  // The same numbers as Lin et al.'s algorithm in torch f64.
  test('Stable Diffusion, before and after the zero-SNR rescale', () => {
    expect(rounded(plain).join(' ')).toBe(
      '0.999575 0.946289 0.821847 0.732559 0.526944 0.324161 0.237957 0.068678 0.068265',
    );
    expect(rounded(zero).join(' ')).toBe(
      '0.999575 0.942383 0.808820 0.712986 0.492300 0.274653 0.182130 0.000444 0.000000',
    );
    expect(zero.alphaBar(999)).toBe(0);
    expect(zero.zeroTerminal).toBe(true);
    expect(plain.zeroTerminal).toBe(false);
  });

  test.each([{}, sd, { beta_schedule: 'squaredcos_cap_v2' }, { trained_betas: [0.1, 0.2, 0.3] }])(
    'signal falls strictly: %j',
    (config) => {
      const length = 'trained_betas' in config ? 3 : 1000;
      const schedule = NoiseSchedule.of({ ...config, num_train_timesteps: length });
      const bars = Array.from({ length }, (_, t) => schedule.alphaBar(t));
      expect(bars.every((bar, t) => bar < (t === 0 ? 1 : bars[t - 1]))).toBe(true);
      expect(schedule.alpha(1) ** 2 + schedule.sigma(1) ** 2).toBeCloseTo(1, 15);
      expect(Math.cos(schedule.phi(1))).toBeCloseTo(schedule.alpha(1), 14);
      expect(schedule.snr(1)).toBeCloseTo((schedule.alpha(1) / schedule.sigma(1)) ** 2, 8);
    },
  );

  // AnimateDiff's linear β beside Stable Diffusion's, equal signal at 499 and 599.
  test('times of equal signal', () => {
    const linear = NoiseSchedule.of({ ...sd, beta_schedule: 'linear' });
    expect([249, 499, 749, 999].map((t) => linear.alpha(t).toFixed(3))).toEqual(
      '0.756 0.402 0.151 0.040'.split(' '),
    );
    expect(linear.snrEqual(499, plain)).toBe(599);
    expect(plain.snrEqual(599, linear)).toBe(499);
    expect(times.map((t) => plain.snrEqual(t, plain))).toEqual(times);
    expect(plain.snrEqual(0, linear)).toBe(0);
    expect(linear.snrEqual(999, plain)).toBe(999);
  });

  test('classes bring their own defaults', () => {
    expect(classConfig('PNDMScheduler').set_alpha_to_one).toBe(false);
    expect(classConfig('EulerDiscreteScheduler').timestep_spacing).toBe('linspace');
    expect(classConfig('LCMScheduler').beta_schedule).toBe('scaled_linear');
    const sd15 = { ...sd, _class_name: 'PNDMScheduler', skip_prk_steps: true, trained_betas: null };
    expect(NoiseSchedule.of(sd15).alphaBar(999)).toBe(plain.alphaBar(999));
  });

  test.each([
    [{ _class_name: 'FlowMatchEulerDiscreteScheduler', shift: 3 }, /no scheduler over β/],
    [{ clip_sample: true }, /latents must not be clipped/],
    [{ thresholding: true }, /thresholding is not supported/],
    [{ use_flow_sigmas: true }, /flow matching/],
    [{ prediction_type: 'flow_prediction' }, /prediction_type/],
    [{ beta_schedule: 'sigmoid' }, /beta_schedule/],
    [{ beta_end: 2 }, /beta_end/],
    [{ trained_betas: [0.1] }, /1 trained_betas for num_train_timesteps 1000/],
    [{ ...sd, rescale_betas_zero_snr: true }, /ε-prediction says nothing/],
    ['linear', /scheduler_config.json/],
  ])('refuses %j', (config, message) => {
    expect(() => NoiseSchedule.of(config)).toThrow(message);
    expect(() => NoiseSchedule.of(config)).toThrow(AttuneError);
  });

  test('a change is checked like a file', () => {
    expect(plain.with({ prediction_type: 'sample' }).predictionType).toBe('sample');
    expect(() => zero.with({ prediction_type: 'epsilon' })).toThrow(/ε-prediction/);
    expect(() => plain.alphaBar(1000)).toThrow(/0 … 999/);
    expect(() => plain.alphaBar(0.5)).toThrow(/integers/);
  });
});

describe('grids', () => {
  test('trailing', () => {
    expect(plain.timesteps(3, 'trailing')).toEqual([999, 666, 332]);
    expect(plain.timesteps(4, 'trailing')).toEqual([999, 749, 499, 249]);
    expect(plain.timesteps(10, 'trailing')).toEqual([
      999, 899, 799, 699, 599, 499, 399, 299, 199, 99,
    ]);
    // Halves go to even, as in NumPy.
    expect(plain.timesteps(16, 'trailing').slice(0, 4)).toEqual([999, 937, 874, 811]);
  });

  test('leading with its offset, linspace', () => {
    const offset = NoiseSchedule.of({ ...sd, steps_offset: 1 });
    expect(offset.timesteps(4)).toEqual([751, 501, 251, 1]);
    expect(() => offset.timesteps(1000)).toThrow(/steps_offset 1 reach t = 1000/);
    expect(plain.timesteps(5, 'linspace')).toEqual([999, 749, 500, 250, 0]);
    expect(plain.timesteps(1, 'linspace')).toEqual([0]);
  });

  // diffusers answers 62 of these step counts (61, 103, 121, …) with one time too many, t = −1.
  test('trailing always gives as many times as asked for, ending at 0 or above', () => {
    for (let steps = 1; steps <= 1000; steps++) {
      const grid = plain.timesteps(steps, 'trailing');
      expect(grid).toHaveLength(steps);
      expect(grid[0]).toBe(999);
      expect(grid.every((t, i) => t >= 0 && (i === 0 || t < grid[i - 1]))).toBe(true);
    }
    expect(() => plain.timesteps(0)).toThrow(/take 1 to 1000/);
    expect(() => plain.timesteps(1001)).toThrow(/take 1 to 1000/);
  });
});

describe('identities', () => {
  const clean = 0.3;
  const noise = -1.1;
  test.each(types)('%s', (type) => {
    const schedule = type === 'epsilon' ? plain : zero.with({ prediction_type: type });
    for (const t of times) {
      const x = at(noised(schedule, t), clean, noise);
      const prediction = at(target(schedule, t), clean, noise);
      const velocity = schedule.alpha(t) * noise - schedule.sigma(t) * clean;
      expect(at(toClean(schedule, t), x, prediction)).toBeCloseTo(clean, 12);
      expect(at(toNoise(schedule, t), x, prediction)).toBeCloseTo(noise, 12);
      expect(at(toVelocity(schedule, t), x, prediction)).toBeCloseTo(velocity, 12);
    }
  });

  test('residuals: ε̂ − ε = α r and x₀ − x̂₀ = σ r', () => {
    for (const t of times) {
      const x = at(noised(zero, t), clean, noise);
      const v = at(target(zero, t), clean, noise);
      const r = 0.7;
      expect(at(toNoise(zero, t), x, v + r) - noise).toBeCloseTo(zero.alpha(t) * r, 12);
      expect(clean - at(toClean(zero, t), x, v + r)).toBeCloseTo(zero.sigma(t) * r, 12);
    }
  });

  test('a velocity from ε is refused where hardly any signal is left', () => {
    expect(() => toVelocity(NoiseSchedule.of({}), 999)).toThrow(/too little to divide by/);
    expect(toVelocity(NoiseSchedule.of({}), 800).cp).toBeGreaterThan(1);
  });
});

describe('ddim', () => {
  test('in v it is a rotation by the difference of angles', () => {
    for (const [t, next] of jumps([999, 666, 332, 0])) {
      const delta = zero.phi(t) - (next === null ? 0 : zero.phi(next));
      const { cx, cp, cn } = ddim(zero, t, next);
      expect(cx).toBeCloseTo(Math.cos(delta), 14);
      expect(cp).toBeCloseTo(-Math.sin(delta), 14);
      expect(cn).toBe(0);
    }
    expect(jumps([3, 1])).toEqual([
      [3, 1],
      [1, null],
    ]);
  });

  test.each(types)('an exact %s goes straight to the image, in any number of steps', (type) => {
    const schedule = type === 'epsilon' ? plain : zero.with({ prediction_type: type });
    const clean = -0.8;
    const noise = 0.4;
    let x = at(noised(schedule, 999), clean, noise);
    for (const [t, next] of jumps([999, 700, 699, 120, 1])) {
      x = at(ddim(schedule, t, next), x, at(target(schedule, t), clean, noise));
      const want = next === null ? clean : at(noised(schedule, next), clean, noise);
      expect(x).toBeCloseTo(want, 12);
    }
  });

  test('lands on ᾱ₀ only where asked and configured', () => {
    const pndm = plain.with({ set_alpha_to_one: false });
    const onFirst = ddim(pndm, 1, null, { landing: 'config' });
    expect(onFirst).toEqual(ddim(pndm, 1, 0));
    expect(ddim(pndm, 1, null).cx).toBe(1 / pndm.alpha(1));
    expect(ddim(plain, 1, null, { landing: 'config' })).toEqual(ddim(plain, 1, null));
  });

  test('eta keeps the variance', () => {
    const noise = ddim(plain, 600, 400, { eta: 0.7 });
    const clean = toClean(plain, 600);
    const back = { cx: plain.alpha(600), cp: plain.sigma(600) };
    // With x₀ = 0 and an exact ε: total variance at 400 is σ².
    const fixed = noise.cx * back.cp + noise.cp;
    expect(fixed ** 2 + noise.cn ** 2).toBeCloseTo(plain.sigma(400) ** 2, 12);
    expect(noise.cx).toBeCloseTo(plain.alpha(400) * clean.cx, 12);
  });

  test('times must decrease', () => {
    expect(() => ddim(plain, 100, 100)).toThrow(/must decrease/);
  });
});

describe('on arrays', () => {
  const x = f32([1, 2, 3, 4], [4, 1]);
  const p = f32([10, 20, 30, 40], [4, 1]);
  test('one pair for all, or one per run of rows', () => {
    expect([...mix({ cx: 1, cp: 0.5 }, x, p).data]).toEqual([6, 12, 18, 24]);
    const two = [
      { cx: 1, cp: 0 },
      { cx: 0, cp: 1 },
    ];
    expect([...mix(two, x, p).data]).toEqual([1, 2, 30, 40]);
    expect(() => mix([...two, ...two, two[0]], x, p)).toThrow(/5 pairs/);
    expect(() => mix(two[0], x, f32([1], [1]))).toThrow(AttuneError);
  });

  test('fresh noise comes from the given stream', () => {
    const step = { cx: 0, cp: 0, cn: 2 };
    const drawn = Rng.of(1)
      .normals([4, 1])
      .data.map((value) => 2 * value);
    expect(takeStep(step, x, p, { rng: Rng.of(1) }).x.data).toEqual(drawn);
    expect(() => takeStep(step, x, p)).toThrow(/no rng/);
  });
});

describe('k bins', () => {
  test('edges', () => {
    expect(binEdges(3, 1000)).toEqual([0, 333, 666, 1000]);
    expect(() => binEdges(0, 1000)).toThrow(/take 1 to 1000/);
  });

  test.each(['terminal', 'uniform'] as const)('%s: decreasing, flat within bins', (firstStep) => {
    const rng = Rng.of(7).fork(firstStep);
    const [k, length, draws, cells] = [3, 999, 6000, 9];
    const edges = binEdges(k, length);
    const counts = Array.from({ length: k }, () => new Float64Array(cells));
    for (let n = 0; n < draws; n++) {
      const drawn = kBin(rng, k, length, firstStep);
      expect(drawn.every((t, j) => j === 0 || t < drawn[j - 1])).toBe(true);
      drawn.forEach((t, j) => {
        const bin = k - 1 - j;
        counts[bin][Math.floor(((t - edges[bin]) * cells) / (edges[bin + 1] - edges[bin]))]++;
      });
    }
    const expected = draws / cells;
    const chi = counts.map((row) =>
      row.reduce((sum, count) => sum + (count - expected) ** 2 / expected, 0),
    );
    // χ² with 8 degrees of freedom: 26.1 is the 0.1 % point.
    expect(Math.max(...chi.slice(0, 2))).toBeLessThan(26.1);
    expect(chi[2] < 26.1).toBe(firstStep === 'uniform');
    expect(counts[2][cells - 1] === draws).toBe(firstStep === 'terminal');
  });

  test('as many bins as times leaves nothing to chance', () => {
    expect(kBin(Rng.of(0), 4, 4, 'uniform')).toEqual([3, 2, 1, 0]);
  });
});

const balance = (a: number, b: number) => (a - b) / (a + b);

// Teachers N(1, ½²) and N(−1, 1²) of equal weight on the rescaled schedule.
describe('closed forms of two Gaussian teachers', () => {
  const weightings = {
    'σ²': (_: number, sigma: number) => sigma ** 2,
    '1': () => 1,
    '2σ': (_: number, sigma: number) => 2 * sigma,
  } as const;
  const kappa = (w: keyof typeof weightings, s: number, from = 0, to = 999) => {
    let sum = 0;
    for (let t = from; t <= to; t++) {
      const [alpha, sigma] = [zero.alpha(t), zero.sigma(t)];
      sum += (weightings[w](alpha, sigma) * sigma * alpha) / (alpha ** 2 * s ** 2 + sigma ** 2);
    }
    return sum / (to - from + 1);
  };
  test.each([
    ['σ²', 0.22959, 0.16834, 0.1539, 0.7227, 0.1539],
    ['1', 0.50548, 0.29856, 0.2573, 0.6936, 0.2536],
    ['2σ', 0.6366, 0.42852, 0.1954, 0.7098, 0.1947],
  ] as const)('w = %s', (w, narrow, wide, mean, deviation, inner) => {
    expect(kappa(w, 0.5)).toBeCloseTo(narrow, 4);
    expect(kappa(w, 1)).toBeCloseTo(wide, 4);
    expect(balance(kappa(w, 0.5), kappa(w, 1))).toBeCloseTo(mean, 3);
    expect(balance(kappa(w, 0.5, 20, 980), kappa(w, 1, 20, 980))).toBeCloseTo(inner, 3);
    // κ falls with s: the deviation where it equals the mean of the two.
    let [low, high] = [0.5, 1];
    const goal = (kappa(w, 0.5) + kappa(w, 1)) / 2;
    for (let n = 0; n < 30; n++) {
      const middle = (low + high) / 2;
      if (kappa(w, middle) > goal) low = middle;
      else high = middle;
    }
    expect(low).toBeCloseTo(deviation, 3);
  });
});
