import { type Operand, scalar, type Shape, type Tensor } from '../../src/index.ts';
import * as elementwise from '../../src/ops/elementwise.ts';
import { type Case, type Draw, lines, near, normal, positive, type Rows } from './case.ts';
import { erf, map, zip } from './reference.ts';

const { abs, add, clamp, greater, leakyRelu, less, maximum, minimum, mul, sub, div, where } =
  elementwise;

type Extra = Pick<Case, 'gradient' | 'eps'>;

/** An op of one tensor at several shapes. */
function unary(
  build: (x: Tensor) => Tensor,
  f: (x: number) => number,
  draw: Draw = normal,
  extra: Extra = {},
): readonly Case[] {
  const at = (shape: Shape): Case => ({
    in: [{ shape, draw }],
    build,
    want: (x) => map(x, f),
    ...extra,
  });
  return [at([2, 3, 5]), at([]), at([1, 7])];
}

/** An op of two tensors at several broadcasts. */
function binary(
  build: (a: Operand, b: Operand) => Tensor,
  f: (a: number, b: number) => number,
  [drawA, drawB]: readonly [Draw, Draw] = [normal, normal],
  extra: Extra = {},
): readonly Case[] {
  const at = (a: Shape, b: Shape): Case => ({
    in: [
      { shape: a, draw: drawA },
      { shape: b, draw: drawB },
    ],
    build,
    want: (x, y) => zip(f, x, y),
    ...extra,
  });
  const alone: Case = {
    in: [{ shape: [2, 3], draw: drawA }],
    build: (x) => build(x, 0.25),
    want: (x) => map(x, (v) => f(v, 0.25)),
    label: 'and a number',
    ...extra,
  };
  return [
    at([2, 3], [2, 3]),
    at([2, 3], [3]),
    at([3, 1], [2, 1, 5]),
    at([], [4]),
    at([2, 3, 4, 5], [3, 1, 1]),
    at([1, 3], [1, 1]),
    alone,
  ];
}

const raises = { gradient: 'raises' } as const;
const kinked = [near(0), near(0.5)] as const;
const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
const truth = (test: boolean): number => Number(test);

export const elementwiseCases: Rows<typeof elementwise> = {
  add: [
    ...binary(add, (a, b) => a + b),
    ...lines(
      [[2, 3], (x) => add(x, 0), (x) => x, 'x + 0'],
      [[2, 3], (x) => add(0, x), (x) => x, '0 + x'],
      [[2, 3], (x) => add(x, scalar(0)), (x) => x, 'x + scalar(0)'],
    ),
  ],
  sub: [
    ...binary(sub, (a, b) => a - b),
    ...lines(
      [[2, 3], (x) => sub(x, 0), (x) => x, 'x - 0'],
      [[2, 3], (x) => sub(0, x), (x) => map(x, (v) => -v), '0 - x'],
      [[2, 3], (x) => sub(x, x), (x) => map(x, () => 0), 'x - x'],
    ),
  ],
  mul: [
    ...binary(mul, (a, b) => a * b),
    ...lines(
      [[2, 3], (x) => mul(1, x), (x) => x, '1 · x'],
      [[2, 3], (x) => mul(0, x), (x) => map(x, () => 0), '0 · x'],
      [[2, 3], (x) => mul(x, x), (x) => map(x, (v) => v * v), 'x · x'],
    ),
  ],
  div: [
    ...binary(div, (a, b) => a / b, [normal, positive]),
    ...lines([[2, 3], (x) => div(x, 1), (x) => x, 'x / 1']),
    {
      in: [{ shape: [4], draw: positive }],
      build: (x) => div(1, x),
      want: (x) => map(x, (v) => 1 / v),
      label: '1 / x',
    },
  ],
  neg: unary(elementwise.neg, (x) => -x),
  exp: unary(elementwise.exp, Math.exp),
  log: unary(elementwise.log, Math.log, positive),
  sqrt: unary(elementwise.sqrt, Math.sqrt, positive),
  reciprocal: unary(elementwise.reciprocal, (x) => 1 / x, positive),
  square: unary(elementwise.square, (x) => x * x),
  abs: unary(abs, Math.abs, near(0.5)),
  sin: unary(elementwise.sin, Math.sin),
  cos: unary(elementwise.cos, Math.cos),
  tanh: unary(elementwise.tanh, Math.tanh),
  erf: unary(elementwise.erf, erf),
  sigmoid: unary(elementwise.sigmoid, sigmoid),
  softplus: unary(elementwise.softplus, (x) => Math.log1p(Math.exp(x))),
  relu: unary(elementwise.relu, (x) => Math.max(x, 0), near(0.5)),
  sign: unary(elementwise.sign, Math.sign, near(0.5), raises),
  floor: unary(elementwise.floor, Math.floor, near(0.5), raises),
  silu: unary(elementwise.silu, (x) => x * sigmoid(x)),
  gelu: unary(elementwise.gelu, (x) => (x * (1 + erf(x * Math.SQRT1_2))) / 2),
  quickGelu: unary(elementwise.quickGelu, (x) => x * sigmoid(1.702 * x)),
  leakyRelu: unary(
    (x) => leakyRelu(x, 0.2),
    (x) => Math.max(x, 0.2 * x),
    near(0.5),
  ),
  greater: binary(greater, (a, b) => truth(a > b), kinked, raises),
  less: binary(less, (a, b) => truth(a < b), kinked, raises),
  equal: binary(elementwise.equal, (a, b) => truth(a === b), [halves, halves], raises),
  maximum: binary(maximum, Math.max, kinked),
  minimum: binary(minimum, Math.min, kinked),
  clamp: unary(
    (x) => clamp(x, -1, 1),
    (x) => Math.min(Math.max(x, -1), 1),
    near(0.5),
  ),
  where: [
    {
      in: [{ shape: [2, 3], draw: near(0.5), frozen: true }, [3], [2, 1]],
      build: (x, a, b) => where(greater(x, 0), a, b),
      want: (x, a, b) => zip((t, u, v) => (t > 0 ? u : v), x, a, b),
    },
    {
      in: [{ shape: [1], draw: near(0.5), frozen: true }, [2, 3]],
      build: (x, a) => where(less(x, 0), a, 2),
      want: (x, a) => zip((t, u) => (t < 0 ? u : 2), x, a),
      label: 'and a number',
    },
  ],
};

function halves(rng: { int(n: number): number }): number {
  return rng.int(3) / 2;
}
