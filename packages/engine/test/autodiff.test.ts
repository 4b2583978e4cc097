/** The reverse sweep: what it builds, where it stops, and that it trusts no rule. */

import { describe, expect, test } from 'vitest';

import {
  add,
  argmax,
  cast,
  concat,
  constant,
  defineOp,
  exp,
  expand,
  f32,
  floor,
  gather,
  grad,
  greater,
  groupNorm,
  input,
  linear,
  mul,
  type OpRule,
  param,
  show,
  silu,
  softmax,
  square,
  sum,
  type Tensor,
  where,
} from '../src/index.ts';
import { checkGrad, evaluate, relativeError } from '../src/testing/index.ts';

const x = input('x', [2, 3]);
const w = param('w', [4, 3], { live: true });
const ones = (y: Tensor): Tensor => input('dy', y.shape);

/** The gradients of y, printed. */
const printed = (y: Tensor, ...xs: readonly Tensor[]): string =>
  show(grad([y], [ones(y)], xs).filter((g) => g !== null));

describe('derivatives read as on paper', () => {
  test('of a square', () => {
    expect(printed(square(x), x)).toMatchInlineSnapshot(`
      "input x [2, 3]
      input dy [2, 3]
      %2 = mul(x, 2) [2, 3]
      %3 = mul(dy, %2) [2, 3]
      return %3"
    `);
  });

  test('of a product with itself', () => {
    expect(printed(mul(x, x), x)).toMatchInlineSnapshot(`
      "input x [2, 3]
      input dy [2, 3]
      %2 = mul(dy, x) [2, 3]
      %3 = mul(dy, x) [2, 3]
      %4 = add(%2, %3) [2, 3]
      return %4"
    `);
  });

  test('of a linear layer, sharing the stored matrix', () => {
    expect(printed(silu(linear(x, w, param('b', [4]))), x, w)).toMatchInlineSnapshot(`
      "input x [2, 3]
      param w [4, 3]
      param b [4]
      %3 = gemm(x, w, b, transA=false, transB=true) [2, 4]
      %4 = silu(%3) [2, 4]
      input dy [2, 4]
      %6 = sigmoid(%3) [2, 4]
      %7 = sub(1, %4) [2, 4]
      %8 = mul(%6, %7) [2, 4]
      %9 = add(%8, %4) [2, 4]
      %10 = mul(dy, %9) [2, 4]
      %11 = gemm(%10, w, transA=false, transB=false) [2, 3]
      %12 = transpose(x, perm=[1, 0]) [3, 2]
      %13 = matmul(%12, %10) [3, 4]
      %14 = transpose(%13, perm=[1, 0]) [4, 3]
      return %11, %14"
    `);
  });

  test('of a broadcast sum', () => {
    const row = input('row', [3]);
    expect(printed(mul(add(x, row), 2), row)).toMatchInlineSnapshot(`
      "input dy [2, 3]
      %1 = mul(dy, 2) [2, 3]
      %2 = sum(%1, axes=[0]) [1, 3]
      %3 = reshape(%2) [3]
      return %3"
    `);
  });

  test('of softmax', () => {
    expect(printed(softmax(x), x)).toMatchInlineSnapshot(`
      "input x [2, 3]
      %1 = softmax(x, axis=1) [2, 3]
      input dy [2, 3]
      %3 = mul(dy, %1) [2, 3]
      %4 = sum(%3, axes=[1]) [2, 1]
      %5 = mul(%1, %4) [2, 3]
      %6 = sub(%3, %5) [2, 3]
      return %6"
    `);
  });

  test('of group normalisation, from the kept statistics', () => {
    const image = input('image', [1, 4, 2, 2]);
    const y = groupNorm(image, 2, param('scale', [4]), param('shift', [4]));
    expect(printed(y, image)).toMatchInlineSnapshot(`
      "input image [1, 4, 2, 2]
      param scale [4]
      %2 = reshape(image) [1, 2, 8]
      %3 = normalize(%2, eps=0.00001) [1, 2, 8]
      %4 = reshape(scale) [4, 1, 1]
      input dy [1, 4, 2, 2]
      %6 = mul(dy, %4) [1, 4, 2, 2]
      %7 = reshape(%6) [1, 2, 8]
      %8 = mean(%7, axes=[2]) [1, 2, 1]
      %9 = sub(%7, %8) [1, 2, 8]
      %10 = mul(%7, %3) [1, 2, 8]
      %11 = mean(%10, axes=[2]) [1, 2, 1]
      %12 = mul(%3, %11) [1, 2, 8]
      %13 = pick(%3, index=1) [1, 2, 1]
      %14 = sub(%9, %12) [1, 2, 8]
      %15 = mul(%13, %14) [1, 2, 8]
      %16 = reshape(%15) [1, 4, 2, 2]
      return %16"
    `);
  });

  test('of parts joined and read back', () => {
    expect(printed(concat([exp(x), x], 1), x)).toMatchInlineSnapshot(`
      "input x [2, 3]
      %1 = exp(x) [2, 3]
      input dy [2, 6]
      %3 = slice(dy, axis=1, start=0, end=3, step=1) [2, 3]
      %4 = slice(dy, axis=1, start=3, end=6, step=1) [2, 3]
      %5 = mul(%3, %1) [2, 3]
      %6 = add(%4, %5) [2, 3]
      return %6"
    `);
  });
});

describe('the walk', () => {
  test('never goes behind an x', () => {
    const h = exp(x);
    const y = square(h);
    const [first, both] = grad([y, h], [ones(y), ones(h)], [h, x]);
    expect(show(first!)).toContain('add');
    expect(both).toBeNull();
  });

  test('gives null where nothing depends on an x', () => {
    const other = input('other', [2]);
    expect(grad([exp(x)], [ones(x)], [other])).toEqual([null]);
    expect(grad([constant(f32([1], []))], [ones(sum(x))], [x])).toEqual([null]);
  });

  test('gives the cotangent itself where y is an x', () => {
    const dy = ones(x);
    expect(grad([x], [dy], [x])).toEqual([dy]);
  });

  test('sums over several ys and several uses', async () => {
    const [a, b] = [exp(x), square(x)];
    const cotangents = [input('ca', [2, 3]), input('cb', [2, 3])];
    const [g] = grad([a, b, a], [...cotangents, cotangents[1]], [x]);
    const one = f32([1, 1, 1, 1, 1, 1], [2, 3]);
    const at = f32([0, 1, 2, 0, -1, -2], [2, 3]);
    const found = await evaluate({ g: g! }, { x: at, ca: one, cb: one });
    const want = f32(
      at.data.map((v) => 2 * Math.exp(v) + 2 * v),
      [2, 3],
    );
    expect(relativeError(found.g, want)).toBeLessThan(1e-6);
  });

  test('skips ops that are not differentiable where no gradient needs them', () => {
    const table = input('table', [5, 3]);
    const y = mul(gather(table, argmax(x, 1)), where(greater(x, 0), x, 0));
    expect(grad([y], [ones(y)], [table, x]).map((g) => g?.shape)).toEqual([
      [5, 3],
      [2, 3],
    ]);
    const masked = mul(x, floor(input('steps', [3])));
    expect(grad([masked], [ones(masked)], [x])[0]?.shape).toEqual([2, 3]);
  });

  test('raises where a path has no derivative', () => {
    const y = mul(floor(exp(x)), 2);
    expect(() => grad([y], [ones(y)], [x])).toThrow('floor [2,3] has no derivative.');
  });

  test('carries nothing through integers, everything through other floats', () => {
    const flows = (['i64', 'f16', 'bf16', 'f64'] as const).map(
      (dtype) => grad([cast(cast(x, dtype), 'f32')], [ones(x)], [x])[0] !== null,
    );
    expect(flows).toEqual([false, true, true, true]);
  });

  test('is differentiable again', async () => {
    const w2 = constant(f32([0.5, -1, 0.2, 0.3, 0.8, -0.4, 1, 0.1, 0.6], [3, 3]));
    const c = expand(constant(f32([1, 2, 3], [3])), [4, 3]);
    const f = (t: Tensor) => {
      const y = mul(softmax(silu(linear(t, w2))), square(t));
      return grad([y], [c], [t])[0]!;
    };
    expect((await checkGrad(f, [[4, 3]])).relative).toBeLessThan(2e-3);
  });

  test('of 3000 ops does not overflow the stack', () => {
    let y: Tensor = x;
    for (let i = 0; i < 3000; i++) y = exp(y);
    expect(grad([y], [ones(y)], [x])[0]?.shape).toEqual([2, 3]);
  });
});

/** Doubling, with some derivative or other. */
const twice = (vjp: OpRule<null>['vjp']) =>
  defineOp('twice', {
    shape: ([a]) => a.shape,
    onnx: (emit, [a]) => emit.node('Add', [a, a]),
    vjp,
  });

const gradient = (vjp: OpRule<null>['vjp']) => {
  const y = twice(vjp)([x], null);
  return grad([y], [ones(y)], [x]);
};

describe('a rule is not believed', () => {
  test('of the wrong shape', () => {
    expect(() => gradient((dy) => [sum(dy, [0])])).toThrow(
      'internal: twice.vjp, input 0 gave a cotangent f32 [3] for a value [2,3].',
    );
    expect(() => gradient((dy) => [sum(dy, [0])])).toThrow(
      expect.objectContaining({ code: 'BAD_GRADIENT' }),
    );
  });

  test('of the wrong type', () => {
    expect(() => gradient((dy) => [cast(dy, 'i64')])).toThrow('twice.vjp, input 0');
  });

  test('nor is a given cotangent', () => {
    expect(() => grad([exp(x)], [input('dy', [3, 2])], [x])).toThrow(
      'the given cotangent gave a cotangent f32 [3,2] for a value [2,3]',
    );
    expect(() => grad([exp(x)], [], [x])).toThrow(
      'grad: 1 values and 0 cotangents; give one each.',
    );
  });

  test('and wrong numbers do not pass the checker', async () => {
    const right = twice((dy) => [mul(dy, 2)]);
    const wrong = twice((dy) => [mul(dy, 2.02)]);
    const missing = twice(() => [null]);
    const of = async (op: typeof right) =>
      (await checkGrad((t) => op([t], null), [[2, 3]])).relative;
    expect(await of(right)).toBeLessThan(1e-3);
    expect(await of(wrong)).toBeGreaterThan(1e-3);
    expect(await of(missing)).toBeGreaterThan(0.1);
  });
});
