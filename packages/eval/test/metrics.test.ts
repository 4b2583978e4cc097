import { type F32Array, Rng } from '@attune/engine';
import { describe, expect, test } from 'vitest';

import {
  flowValidity,
  gradientEnergy,
  maskedFeatureDistance,
  motionEnergy,
  motionRatio,
  outside,
  outsideBand,
  pairwiseCosine,
  psnr,
  rowsOf,
  sharpness,
  warpError,
} from '../src/index.ts';

const f32 = (shape: readonly number[], of: (i: number) => number): F32Array => ({
  dtype: 'f32',
  shape,
  data: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => of(i)),
});

const SIDE = 16;
const AREA = SIDE * SIDE;
const noise = (shape: readonly number[], seed = 1): F32Array => {
  const rng = Rng.of(seed);
  return f32(shape, () => rng.uniform());
};

/** Whether a place is on the 5 × 5 patch. */
const inside = ({ u, v }: { u: number; v: number }): boolean => u >= 0 && u < 5 && v >= 0 && v < 5;

describe('fidelity', () => {
  const truth = noise([2, 3, SIDE, SIDE]);
  const mask = f32([2, SIDE, SIDE], (i) => (i % SIDE < 4 ? 1 : 0));
  /** Off by 0.1 inside the mask, by 0.01 outside. */
  const off = f32(truth.shape, (i) => truth.data[i] + (i % SIDE < 4 ? 0.1 : 0.01));

  test('psnr is 10 · log10(1 / mse), inside, outside and whole', () => {
    expect(psnr(off, truth, mask)).toBeCloseTo(20, 4);
    expect(psnr(off, truth, outside(mask))).toBeCloseTo(40, 3);
    expect(psnr(off, truth)).toBeCloseTo(-10 * Math.log10(0.25 * 1e-2 + 0.75 * 1e-4), 4);
  });

  test('equal pictures reach the ceiling; an empty mask says nothing', () => {
    expect(psnr(truth, truth)).toBe(100);
    expect(
      psnr(
        off,
        truth,
        f32(mask.shape, () => 0),
      ),
    ).toBeNaN();
  });

  test('frames can be judged apart', () => {
    const second = f32(truth.shape, (i) => truth.data[i] + (i < 3 * AREA ? 0 : 0.1));
    expect(psnr(rowsOf(second, 0, 1), rowsOf(truth, 0, 1))).toBe(100);
    expect(psnr(rowsOf(second, 1), rowsOf(truth, 1))).toBeCloseTo(20, 4);
  });

  test('a wrong shape is an error that names both', () => {
    expect(() => psnr(truth, rowsOf(truth, 1))).toThrow('[2,3,16,16] with [1,3,16,16]');
    expect(() => psnr(off, truth, rowsOf(mask, 1))).toThrow('[1,16,16]');
  });
});

describe('sharpness', () => {
  test('the energy of a ramp is its squared step, and edges between frames do not count', () => {
    const ramp = f32([2, 1, 4, 4], (i) => 0.1 * (i % 4) + (i < 16 ? 0 : 0.5));
    expect(gradientEnergy(ramp)).toBeCloseTo((0.1 ** 2 * 12) / 24, 6);
  });

  test('half the contrast is a quarter of the energy; noise wins nothing', () => {
    const truth = noise([1, 3, SIDE, SIDE]);
    const soft = f32(truth.shape, (i) => 0.5 * truth.data[i]);
    const harsh = f32(truth.shape, (i) => 3 * truth.data[i]);
    expect(sharpness(soft, truth)).toBeCloseTo(0.25, 5);
    expect(sharpness(harsh, truth)).toBe(1);
    expect(
      sharpness(
        truth,
        f32(truth.shape, () => 0.5),
      ),
    ).toBeNaN();
  });

  test('a mask leaves its own border out', () => {
    const half = f32([1, 1, SIDE, SIDE], (i) => (i % SIDE < 8 ? 0 : 1));
    const mask = f32([1, SIDE, SIDE], (i) => (i % SIDE < 8 ? 1 : 0));
    expect(gradientEnergy(half)).toBeGreaterThan(0);
    expect(gradientEnergy(half, mask)).toBe(0);
  });
});

describe('consistency', () => {
  /** A 5 × 5 patch of noise, moving (2, 1) px a frame over a grey background. */
  const [F, x0, y0] = [4, 2, 3];
  const patch = noise([3, 5, 5], 7);
  const place = (i: number): { c: number; f: number; u: number; v: number } => {
    const f = Math.floor(i / (3 * AREA));
    const u = (i % SIDE) - x0 - 2 * f;
    const v = (Math.floor(i / SIDE) % SIDE) - y0 - f;
    return { f, c: Math.floor(i / AREA) % 3, u, v };
  };
  const clip = f32([F, 3, SIDE, SIDE], (i) => {
    const at = place(i);
    return inside(at) ? patch.data[(at.c * 5 + at.v) * 5 + at.u] : 0.5;
  });
  const masks = f32([F, SIDE, SIDE], (i) => {
    const f = Math.floor(i / AREA);
    return inside(place(f * 3 * AREA + (i % AREA))) ? 1 : 0;
  });
  const flow = f32([F - 1, 2, SIDE, SIDE], (i) => {
    const f = Math.floor(i / (2 * AREA));
    const way = Math.floor(i / AREA) % 2 === 0 ? 2 : 1;
    return masks.data[f * AREA + (i % AREA)] * way;
  });

  test('the truth has no warp error, on the object and on the background', () => {
    for (const region of ['object', 'background', 'both'] as const)
      expect(warpError(clip, flow, flowValidity(flow, masks, region))).toBe(0);
    expect(motionEnergy(clip)).toBeGreaterThan(0.001);
  });

  test('what becomes hidden or appears is not valid', () => {
    const valid = flowValidity(flow, masks);
    const next = masks.data.subarray(AREA);
    for (let i = 0; i < AREA; i++) expect(valid.data[i]).toBe(masks.data[i] || !next[i] ? 1 : 0);
  });

  test('alternating brightness is its squared step', () => {
    const flicker = f32(clip.shape, (i) => clip.data[i] + (place(i).f % 2 ? 0.1 : 0));
    for (const region of ['object', 'background'] as const)
      expect(warpError(flicker, flow, flowValidity(flow, masks, region))).toBeCloseTo(0.01, 5);
    expect(motionRatio(flicker, clip)).toBeGreaterThan(1);
  });

  test('a texture that stays while the object moves is an error', () => {
    const stuck = f32(clip.shape, (i) => {
      const { f, c } = place(i);
      const still = noise([3, SIDE, SIDE], 9).data[c * AREA + (i % AREA)];
      return masks.data[f * AREA + (i % AREA)] ? still : 0.5;
    });
    expect(warpError(stuck, flow, flowValidity(flow, masks, 'object'))).toBeGreaterThan(0.05);
    expect(warpError(stuck, flow, flowValidity(flow, masks, 'background'))).toBe(0);
  });

  test('motion ratio: 1 for the truth, 0 for a still, 4 for twice the change', () => {
    const still = f32(clip.shape, (i) => clip.data[i % (3 * AREA)]);
    const double = f32(clip.shape, (i) => 2 * clip.data[i]);
    expect(motionRatio(clip, clip)).toBe(1);
    expect(motionRatio(still, clip)).toBe(0);
    expect(motionRatio(double, clip)).toBeCloseTo(4, 5);
    expect(motionRatio(clip, still)).toBeNaN();
  });

  test('a band counts what lies outside of it', () => {
    expect([0.8, 1, 1.2].map((ratio) => outsideBand(ratio))).toEqual([0, 0, 0]);
    expect(outsideBand(2.4)).toBeCloseTo(Math.log(2), 6);
    expect(outsideBand(0.4)).toBeCloseTo(Math.log(2), 6);
    expect(outsideBand(Number.NaN)).toBeNaN();
  });
});

describe('features', () => {
  const level = noise([2, 8, 4, 4]);

  test('distance: 0 for equal directions, 2 for orthogonal ones, 4 for opposite ones', () => {
    const scaled = f32(level.shape, (i) => 3 * level.data[i]);
    const opposite = f32(level.shape, (i) => -level.data[i]);
    const one = (c: number) => f32([1, 2, 1, 1], (i) => (i === c ? 1 : 0));
    expect(maskedFeatureDistance([level], [scaled])).toBeCloseTo(0, 5);
    expect(maskedFeatureDistance([level], [opposite])).toBeCloseTo(4, 5);
    expect(maskedFeatureDistance([one(0)], [one(1)])).toBeCloseTo(2, 5);
  });

  test('only what the mask covers counts, in proportion, levels equally', () => {
    const changed = f32(level.shape, (i) => (i % 4 < 2 ? level.data[i] : -level.data[i]));
    const left = f32([2, 8, 8], (i) => (i % 8 < 4 ? 1 : 0));
    const most = f32([2, 8, 8], (i) => (i % 8 < 6 ? 1 : 0));
    expect(maskedFeatureDistance([level], [changed], left)).toBeCloseTo(0, 5);
    expect(maskedFeatureDistance([level], [changed], outside(left))).toBeCloseTo(4, 5);
    expect(maskedFeatureDistance([level], [changed], most)).toBeCloseTo(4 / 3, 5);
    expect(maskedFeatureDistance([level, level], [changed, level])).toBeCloseTo(1, 5);
    expect(
      maskedFeatureDistance(
        [level],
        [changed],
        f32([2, 8, 8], () => 0),
      ),
    ).toBeNaN();
  });

  test('pairwise cosine over all pairs, and over adjacent ones', () => {
    const turning = f32([3, 2], (i) => [1, 0, 0, 1, 1, 0][i]);
    expect(pairwiseCosine(turning)).toBeCloseTo(1 / 3, 6);
    expect(pairwiseCosine(turning, 'adjacent')).toBeCloseTo(0, 6);
    expect(pairwiseCosine(f32([4, 3], (i) => (i % 3) + 1))).toBeCloseTo(1, 6);
  });
});
