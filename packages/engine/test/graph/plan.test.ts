/** Where graphs are cut, what crosses the cuts, and what a backward pass keeps. */

import { describe, expect, test } from 'vitest';

import { rates } from '../../src/graph/plan.ts';
import { savedValues } from '../../src/graph/remat.ts';
import { ancestors } from '../../src/graph/tensor.ts';
import {
  add,
  attention,
  constant,
  conv2d,
  exp,
  f32,
  flops,
  gelu,
  grad,
  groupNorm,
  input,
  layerNorm,
  linear,
  matmul,
  mul,
  OrtRuntime,
  param,
  plan,
  Program,
  quickGelu,
  Rng,
  type Segment,
  show,
  silu,
  slice,
  sum,
  type Tensor,
  tracePosition,
  Weights,
} from '../../src/index.ts';
import { relativeError } from '../../src/testing/index.ts';
import { traced } from '../runtime/network.ts';

const names = (tensors: readonly Tensor[]): string[] => tensors.map((t) => t.op.name);
const outline = (segments: readonly Segment[]) =>
  segments.map(({ rate, crossing, outputs }) => ({
    rate,
    in: names(crossing).join(' '),
    out: names(outputs).join(' '),
  }));

describe('rates', () => {
  test('are those of the fastest leaf, wherever a value was traced', () => {
    const fixed = mul(param('w', [2]), 2);
    const live = mul(param('p', [2], { live: true }), fixed);
    const clip = exp(input('c', [2], { rate: 'clip' }));
    const step = mul(input('s', [2]), clip);
    const late = mul(clip, live);
    const still = constant(f32([1, 2], [2]));
    const found = rates(ancestors([step, late, live, still, fixed]));
    const of = [fixed, live, clip, step, late, still].map((t) => found.get(t));
    expect(of).toEqual(['fixed', 'clip', 'clip', 'step', 'clip', 'fixed']);
  });
});

/** Three runs; `w` is fixed, `c` belongs to the clip, the first value is read in the last run. */
const build = () => {
  const x = input('x', [2, 4]);
  const c = input('c', [2, 4], { rate: 'clip' });
  const w = mul(param('w', [4, 4]), 2);
  const marks: number[] = [];
  const mark = () => marks.push(tracePosition());
  const a = matmul(x, w);
  mark();
  const b = add(exp(a), mul(c, 3));
  mark();
  const y = matmul(add(b, a), w);
  return { outputs: { y }, marks };
};

describe('a plan', () => {
  test('without cuts splits by rate alone', () => {
    expect(outline(plan(build()))).toEqual([
      { rate: 'clip', in: '', out: 'mul' },
      { rate: 'step', in: 'mul', out: 'matmul' },
    ]);
    expect(outline(plan(build(), { split: false }))).toEqual([
      { rate: 'step', in: '', out: 'matmul' },
    ]);
  });

  test('at marks hands on what crosses, also past a segment, and nothing fixed', () => {
    expect(outline(plan(build(), { segments: 'marks' }))).toEqual([
      { rate: 'clip', in: '', out: 'mul' },
      { rate: 'step', in: '', out: 'matmul' },
      { rate: 'step', in: 'matmul mul', out: 'add' },
      { rate: 'step', in: 'add matmul', out: 'matmul' },
    ]);
  });

  test('never lets a fixed value or a leaf cross', () => {
    for (const segments of [2, 3, 'marks'] as const) {
      const graph = traced();
      const rate = rates(ancestors(Object.values(graph.outputs)));
      for (const { crossing, outputs } of plan(graph, { segments }))
        for (const t of [...crossing, ...outputs]) {
          expect(rate.get(t)).not.toBe('fixed');
          expect(t.inputs.length).toBeGreaterThan(0);
        }
    }
  });

  test('balances by arithmetic', () => {
    let x = input('x', [8, 8]);
    const marks: number[] = [];
    for (let i = 0; i < 12; i++) {
      x = matmul(x, param(`w${i}`, [8, 8]));
      marks.push(tracePosition());
    }
    const parts = plan({ outputs: { x }, marks }, { segments: 4 });
    const sizes = parts.map(
      ({ outputs, crossing }) =>
        names(ancestors(outputs, new Set(crossing))).filter((name) => name === 'matmul').length -
        crossing.length,
    );
    expect(sizes).toEqual([3, 3, 3, 3]);
  });

  test('gives outputs that are leaves or fixed to the last segment', () => {
    const x = input('x', [2]);
    const w = param('w', [2]);
    expect(outline(plan({ outputs: { x, v: exp(w), y: exp(x) }, marks: [] }))).toEqual([
      { rate: 'step', in: '', out: 'input exp exp' },
    ]);
    expect(outline(plan({ outputs: { v: exp(w) }, marks: [] }))).toEqual([
      { rate: 'step', in: '', out: 'exp' },
    ]);
    const c = exp(input('c', [2], { rate: 'clip' }));
    expect(outline(plan({ outputs: { x, c }, marks: [] }))).toEqual([
      { rate: 'clip', in: '', out: 'exp' },
      { rate: 'step', in: '', out: 'input' },
    ]);
  });

  test('a differentiated graph can be cut anywhere', async () => {
    const marks: number[] = [];
    const mark = () => marks.push(tracePosition());
    const x = input('x', [3, 4]);
    const live = param('w', [4, 4], { live: true });
    const one = constant(f32([1, 1, 1, 1], [4]));
    mark();
    const h = layerNorm(silu(linear(x, live)), one, mul(one, 0.5));
    mark();
    const deep = layerNorm(linear(h, live), one, one);
    mark();
    const loss = sum(mul(deep, deep), [0]);
    mark();
    const [dx, dw] = grad([loss], [one], [x, live]);
    const outputs = { dx: dx!, dw: dw! };
    const rng = Rng.of(3);
    const feeds = { x: rng.normals([3, 4]), w: rng.normals([4, 4]) };
    const options = { runtime: new OrtRuntime({ threads: 1 }), weights: Weights.fromArrays({}) };
    const run = async (segments: 1 | 2 | 'marks') => {
      const program = new Program({ outputs, marks }, { ...options, segments });
      const found = await program.run(feeds);
      await program.release();
      return found;
    };
    const want = await run(1);
    for (const segments of [2, 'marks'] as const) {
      const got = await run(segments);
      expect(relativeError(got.dx, want.dx)).toBeLessThan(1e-5);
      expect(relativeError(got.dw, want.dw)).toBeLessThan(1e-5);
    }
  });
});

describe('saved values', () => {
  const x = input('x', [2, 8]);
  const w = param('w', [8, 8]);

  /** For the gradient of y in x, or in the values that cross into its segment. */
  const saved = (y: Tensor, crossing: readonly Tensor[] = []): Tensor[] => {
    const seed = input('dy', y.shape);
    const grads = grad([y], [seed], crossing.length ? crossing : [x]).filter((g) => g !== null);
    return savedValues(grads, [seed], crossing);
  };

  test('leave out what follows cheaply from kept ones', () => {
    const h = linear(x, w);
    expect(saved(linear(silu(h), w))).toEqual([h]);
    expect(saved(linear(exp(silu(mul(h, 2))), w))).toEqual([h]);
  });

  test('leave out what follows from the inputs', () => {
    expect(saved(linear(silu(x), w))).toEqual([]);
    expect(saved(linear(x, w))).toEqual([]);
  });

  test('begin at what crosses into the segment', () => {
    const h = silu(linear(x, w));
    const u = linear(h, w);
    expect(saved(linear(exp(silu(u)), w), [h])).toEqual([u]);
    expect(saved(exp(silu(h)), [h])).toEqual([]);
  });

  test('keep a cheap value where its roots are larger', () => {
    const [h, g] = [linear(x, w), linear(x, param('v', [8, 8]))];
    const y = exp(add(h, g));
    expect(saved(y)).toEqual([y]);
    expect(saved(mul(h, g))).toEqual([h, g]);
  });

  test('keep the product instead of the halves and the slope of a GEGLU', () => {
    const both = linear(x, param('v', [16, 8]));
    const y = linear(mul(slice(both, -1, 0, 8), gelu(slice(both, -1, 8))), w);
    expect(names(saved(y))).toEqual(['gemm']);
    expect(saved(y)[0].size).toBe(32);
  });

  test('hold the statistics of a norm', () => {
    const y = linear(groupNorm(x, 2, param('s', [8]), param('b', [8])), w);
    expect(names(saved(y)).toSorted()).toEqual(['normalize', 'pick']);
  });

  test('hold probabilities and result of an attention', () => {
    const q = linear(x, w);
    expect(names(saved(attention(q, q, q))).toSorted()).toEqual(['attend', 'gemm', 'softmax']);
  });

  test('are found in a time that grows with the graph, not with its paths', () => {
    let t: Tensor = linear(x, w);
    for (let i = 0; i < 60; i++) t = quickGelu(t);
    expect(saved(t).length).toBeGreaterThan(0);
  });
});

test('flops count a multiply and an add as two', () => {
  const x = input('x', [2, 3, 8, 8]);
  const w = input('w', [4, 3, 3, 3]);
  const y = conv2d(x, w, undefined, { padding: 1 });
  const conv = 2 * (2 * 4 * 8 * 8) * (3 * 3 * 3);
  expect(flops(y)).toBe(conv);
  for (const g of grad([y], [input('dy', y.shape)], [x, w])) expect(flops(g!)).toBe(conv);
  expect(flops(matmul(input('a', [5, 2, 3]), input('b', [3, 7])))).toBe(2 * 5 * 2 * 3 * 7);
  const product = linear(input('a', [5, 6]), input('b', [7, 6]));
  expect(flops(product)).toBeCloseTo(2 * 5 * 6 * 7, 6);
  const [q, k] = [input('q', [2, 5, 4]), input('k', [2, 6, 4])];
  expect(flops(attention(q, k, k))).toBe(2 * 2 * 5 * 6 * 4);
  expect([flops(x), flops(exp(x))]).toEqual([0, x.size]);
});

test('a graph prints, one line per tensor', () => {
  const x = input('x', [2, 3]);
  const ids = input('ids', [2], { dtype: 'i64', rate: 'clip' });
  const y = add(mul(linear(x, param('w', [4, 3])), 0.5), constant(f32([1, 2, 3, 4], [4])));
  expect(show([y, ids])).toMatchInlineSnapshot(`
    "input x [2, 3]
    input ids i64 [2]
    param w [4, 3]
    %3 = gemm(x, w, transA=false, transB=true) [2, 4]
    %4 = mul(%3, 0.5) [2, 4]
    %5 = add(%4, const[4]) [2, 4]
    return %5, ids"
  `);
});
