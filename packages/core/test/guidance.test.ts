import { type F32Array, f32, OrtRuntime, Rng } from '@attune/engine';
import { relativeError } from '@attune/engine/testing';
import { describe, expect, test } from 'vitest';

import {
  type Guidance,
  guidanceBranches,
  guidanceWeights,
  guide,
  rescaleDeviation,
} from '../src/sample/guidance.ts';
import { ModelRunner } from '../src/sample/runner.ts';
import { sample } from '../src/sample/sample.ts';
import { tinyModel } from '../src/testing/index.ts';
import { tinyDims } from '../src/testing/tiny.ts';

const one = (convention: Guidance['convention'], scale: number): Guidance => ({
  convention,
  terms: [{ base: 'uncond', cond: 'cond', scale }],
});
const pair = (convention: Guidance['convention'], image: number, text: number): Guidance => ({
  convention,
  terms: [
    { base: 'none', cond: 'image', scale: image },
    { base: 'image', cond: 'both', scale: text },
  ],
});

const deviation = (values: Float32Array) => {
  const mean = values.reduce((sum, v) => sum + v, 0) / values.length;
  return Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / values.length);
};
const outputs = {
  uncond: f32([1, 2, 3, 4], [2, 2]),
  cond: f32([2, 2, 5, 1], [2, 2]),
};

describe('conventions', () => {
  // Each row of the table as (convention, scale as written, effective uncond + s·Δ).
  test.each([
    ['threestudio SDS', 'cond+s*delta', 100, 101],
    ['threestudio VSD', 'uncond+s*delta', 7.5, 7.5],
    ['threestudio VSD, fake', 'uncond+s*delta', 1, 1],
    ['DMD2 on SD 1.5', 'uncond+s*delta', 1.75, 1.75],
    ['Self-Forcing', 'cond+s*delta', 3, 4],
    ['Self-Forcing, fake', 'cond+s*delta', 0, 1],
    ['rCM', 'uncond+s*delta', 5, 5],
  ] as const)('%s', (_, convention, scale, effective) => {
    const want = one('uncond+s*delta', effective);
    expect(guidanceWeights(one(convention, scale))).toEqual(guidanceWeights(want));
    expect(guide(outputs, one(convention, scale))).toEqual(guide(outputs, want));
  });

  test('the two sums as written', () => {
    const u = outputs.uncond.data;
    const c = outputs.cond.data;
    const wrote = { 'uncond+s*delta': u, 'cond+s*delta': c } as const;
    for (const convention of ['uncond+s*delta', 'cond+s*delta'] as const) {
      const want = wrote[convention].map((start, i) => start + 2.5 * (c[i] - u[i]));
      expect(guide(outputs, one(convention, 2.5)).data).toEqual(want);
    }
  });

  test('no guidance runs one branch, a zero scale the other', () => {
    expect(guidanceBranches(one('uncond+s*delta', 1))).toEqual(['cond']);
    expect(guidanceBranches(one('cond+s*delta', 0))).toEqual(['cond']);
    expect(guidanceBranches(one('uncond+s*delta', 0))).toEqual(['uncond']);
    expect(guide({ cond: outputs.cond }, one('uncond+s*delta', 1)).data).toEqual(outputs.cond.data);
    expect(() => guide({ cond: outputs.cond }, one('uncond+s*delta', 2))).toThrow(/"uncond"/);
  });
});

describe('several conditions', () => {
  test('InstructPix2Pix: ε∅∅ + s_I (ε_I∅ − ε∅∅) + s_T (ε_IT − ε_I∅)', () => {
    expect(guidanceWeights(pair('uncond+s*delta', 1.5, 7.5))).toEqual({
      none: -0.5,
      image: -6,
      both: 7.5,
    });
    expect(guidanceWeights(pair('cond+s*delta', 0.5, 6.5))).toEqual(
      guidanceWeights(pair('uncond+s*delta', 1.5, 7.5)),
    );
    expect(guidanceBranches(pair('uncond+s*delta', 1, 1))).toEqual(['both']);
  });

  test('terms from one base', () => {
    const terms = [
      { base: 'none', cond: 'a', scale: 2 },
      { base: 'none', cond: 'b', scale: 3 },
    ];
    expect(guidanceWeights({ convention: 'uncond+s*delta', terms })).toEqual({
      none: -4,
      a: 2,
      b: 3,
    });
    expect(() => guidanceWeights({ convention: 'cond+s*delta', terms })).toThrow(
      /does not start at "a"/,
    );
  });

  test('nonsense is refused', () => {
    expect(() => guidanceWeights({ convention: 'cond+s*delta', terms: [] })).toThrow(/no terms/);
    expect(() => guidanceWeights(one('cond+s*delta', Number.NaN))).toThrow(/scale NaN/);
    const odd = { ...outputs, cond: f32([1], [1]) };
    expect(() => guide(odd, one('cond+s*delta', 2))).toThrow(/branches of/);
  });
});

describe('rescale (Lin et al. §3.4)', () => {
  const rng = Rng.of(5);
  const uncond = rng.normals([4, 16]);
  const cond = rng.normals([4, 16]);

  test('at φ = 1 each sample has the deviation of the CONDITIONAL output', () => {
    const full = guide({ uncond, cond }, { ...one('uncond+s*delta', 6), rescalePhi: 1 });
    for (let row = 0; row < 4; row++) {
      const part = (data: Float32Array) => deviation(data.subarray(row * 16, row * 16 + 16));
      expect(part(full.data)).toBeCloseTo(part(cond.data), 5);
      expect(Math.abs(part(full.data) - part(uncond.data))).toBeGreaterThan(1e-3);
    }
  });

  test('φ mixes, clips share one deviation', () => {
    const plain = guide({ uncond, cond }, one('uncond+s*delta', 6));
    const full = rescaleDeviation(plain, cond, 1, 2);
    const part = rescaleDeviation(plain, cond, 0.7, 2);
    const want = plain.data.map((v, i) => 0.7 * full.data[i] + 0.3 * v);
    expect(Math.max(...part.data.map((v, i) => Math.abs(v - want[i])))).toBeLessThan(1e-5);
    expect(deviation(full.data.subarray(0, 32))).toBeCloseTo(
      deviation(cond.data.subarray(0, 32)),
      5,
    );
    expect(() => rescaleDeviation(plain, cond, 1, 3)).toThrow(/3 rows a sample/);
  });

  test('it needs the conditional output even where its weight is 0', () => {
    const guidance = { ...one('uncond+s*delta', 0), rescalePhi: 0.7 };
    expect(guidanceBranches(guidance)).toEqual(['uncond', 'cond']);
    const flat = { uncond: f32([1, 1], [1, 2]), cond: f32([1, 2], [1, 2]) };
    expect([...guide(flat, guidance).data]).toEqual([1, 1]);
  });
});

test('branches that run one after another are the clips of one batch', async () => {
  const runner = new ModelRunner(tinyModel(), new OrtRuntime({ threads: 1 }));
  const guidance = one('uncond+s*delta', 3);
  const rng = Rng.of(4);
  const { F, H, W, L } = tinyDims;
  const noise = rng.fork('noise').normals([F, 4, H, W]);
  const texts = rng.fork('text').normals([2, L, 12]);
  const text = (i: number) => f32(texts.data.slice(i * L * 12, (i + 1) * L * 12), [1, L, 12]);
  const t = 500;
  let guided: F32Array | undefined;
  const last = await sample(runner, {
    dims: { ...tinyDims, B: 1 },
    branches: {
      uncond: { encoder_hidden_states: text(0) },
      cond: { encoder_hidden_states: text(1) },
    },
    guidance,
    plan: { start: 1, steps: [{ t, cx: 0.9, cp: -0.3, cn: 0 }] },
    noise,
    adjust: (prediction) => (guided = prediction),
  });
  const both = f32([...noise.data, ...noise.data], [2 * F, 4, H, W]);
  const { sample: out } = await runner.run(
    { net: 'unet', dims: { ...tinyDims, B: 2 } },
    { sample: both, timestep: f32([t], [1]), encoder_hidden_states: texts },
  );
  const half = noise.data.length;
  const clip = (i: number) =>
    f32((out.data as Float32Array).slice(i * half, (i + 1) * half), noise.shape);
  const want = guide({ uncond: clip(0), cond: clip(1) }, guidance);
  expect(relativeError(guided!, want)).toBeLessThan(1e-5);
  const moved = want.data.map((value, i) => 0.9 * noise.data[i] - 0.3 * value);
  expect(relativeError(last, f32(moved, noise.shape))).toBeLessThan(1e-5);
  await runner.release();
});
