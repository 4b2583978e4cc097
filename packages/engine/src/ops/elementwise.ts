/** Element-wise ops, with broadcasting. A plain number stands for a scalar. */

import { badArgument } from '../errors.ts';
import { literal, scalar } from '../graph/leaf.ts';
import { commonType, defineOp, type Emitter, type Value } from '../graph/op.ts';
import { broadcast } from '../graph/shape.ts';
import type { Tensor } from '../graph/tensor.ts';
import { sumTo } from './structural.ts';

/** A tensor, or a number that stands for an f32 scalar. */
export type Operand = Tensor | number;

const tensor = (x: Operand): Tensor => (typeof x === 'number' ? scalar(x) : x);

type Rule1 = (dy: Tensor, x: Tensor, y: Tensor) => Tensor;
type Rule2 = (
  dy: Tensor,
  a: Tensor,
  b: Tensor,
  y: Tensor,
) => readonly [Tensor | null, Tensor | null];

/** An op of one input: its ONNX type (or a recipe) and dx. */
function unary(
  name: string,
  onnx: string | ((emit: Emitter, x: Value) => Value),
  dx: Rule1 | null,
): (x: Tensor) => Tensor {
  const build = defineOp(name, {
    shape: ([x]) => x.shape,
    onnx: (emit, [x]) => (typeof onnx === 'string' ? emit.node(onnx, [x]) : onnx(emit, x)),
    vjp: dx && ((dy, [x], y) => [dx(dy, x, y)]),
    cheap: true,
  });
  return (x) => build([x], null);
}

/** A broadcasting op of two inputs; `rule` returns cotangents before they are summed to the inputs' shapes. */
function binary(
  name: string,
  onnx: string,
  rule: Rule2 | null,
): (a: Operand, b: Operand) => Tensor {
  const build = defineOp(name, {
    shape: ([a, b]) => {
      const dtype = commonType(name, [a, b]);
      return {
        shape: broadcast(name, a.shape, b.shape),
        dtype: comparisons.has(onnx) ? 'bool' : dtype,
      };
    },
    onnx: (emit, inputs) => emit.node(onnx, inputs),
    vjp:
      rule &&
      ((dy, [a, b], y) => {
        const [da, db] = rule(dy, a, b, y);
        return [da && sumTo(da, a.shape), db && sumTo(db, b.shape)];
      }),
    cheap: true,
  });
  return (a, b) => build([tensor(a), tensor(b)], null);
}

const comparisons = new Set(['Greater', 'Less', 'Equal']);

const addOp = binary('add', 'Add', (dy) => [dy, dy]);
const subOp = binary('sub', 'Sub', (dy) => [dy, neg(dy)]);
const mulOp = binary('mul', 'Mul', (dy, a, b) => [mul(dy, b), mul(dy, a)]);
const divOp = binary('div', 'Div', (dy, _, b, y) => {
  const da = div(dy, b);
  return [da, neg(mul(da, y))];
});

const is = (x: Operand, value: number): boolean =>
  (typeof x === 'number' ? x : literal(x)) === value;

/** a + b, broadcast. A literal 0 adds no node. */
export const add = (a: Operand, b: Operand): Tensor =>
  is(b, 0) ? tensor(a) : is(a, 0) ? tensor(b) : addOp(a, b);
/** a − b, broadcast. A literal 0 for b adds no node. */
export const sub = (a: Operand, b: Operand): Tensor => (is(b, 0) ? tensor(a) : subOp(a, b));
/** a · b, element by element, broadcast. A literal 1 adds no node. Matrices multiply with `matmul`. */
export const mul = (a: Operand, b: Operand): Tensor =>
  is(b, 1) ? tensor(a) : is(a, 1) ? tensor(b) : mulOp(a, b);
/** a / b, element by element, broadcast. A literal 1 for b adds no node. */
export const div = (a: Operand, b: Operand): Tensor => (is(b, 1) ? tensor(a) : divOp(a, b));

/** −x. */
export const neg = unary('neg', 'Neg', (dy) => neg(dy));
/** eˣ. */
export const exp = unary('exp', 'Exp', (dy, _, y) => mul(dy, y));
/** Natural logarithm, for x > 0. */
export const log = unary('log', 'Log', (dy, x) => div(dy, x));
/** √x for x ≥ 0. Its gradient is infinite at 0. */
export const sqrt = unary('sqrt', 'Sqrt', (dy, _, y) => div(mul(dy, 0.5), y));
/** 1 / x. */
export const reciprocal = unary('reciprocal', 'Reciprocal', (dy, _, y) => neg(mul(dy, square(y))));
/** x². */
export const square = unary(
  'square',
  (emit, x) => emit.node('Mul', [x, x]),
  (dy, x) => mul(dy, mul(x, 2)),
);
/** |x|. The gradient at 0 is 0. */
export const abs = unary('abs', 'Abs', (dy, x) => mul(dy, sign(x)));
/** Sine of x in radians. */
export const sin = unary('sin', 'Sin', (dy, x) => mul(dy, cos(x)));
/** Cosine of x in radians. */
export const cos = unary('cos', 'Cos', (dy, x) => neg(mul(dy, sin(x))));
/** Hyperbolic tangent. */
export const tanh = unary('tanh', 'Tanh', (dy, _, y) => mul(dy, sub(1, square(y))));
/** The error function, 2/√π ∫₀ˣ e^(−t²) dt. */
export const erf = unary('erf', 'Erf', (dy, x) =>
  mul(mul(dy, 2 / Math.sqrt(Math.PI)), exp(neg(square(x)))),
);
/** 1 / (1 + e^(−x)). */
export const sigmoid = unary('sigmoid', 'Sigmoid', (dy, _, y) => mul(dy, mul(y, sub(1, y))));
/** log(1 + eˣ). */
export const softplus = unary('softplus', 'Softplus', (dy, x) => mul(dy, sigmoid(x)));
/** max(x, 0). The gradient at 0 is 0. */
export const relu = unary('relu', 'Relu', (dy, x) => where(greater(x, 0), dy, 0));
/** −1, 0 or 1. Not differentiable: using it on a path to a gradient is an error. */
export const sign = unary('sign', 'Sign', null);
/** The largest whole number that is not above x. Not differentiable. */
export const floor = unary('floor', 'Floor', null);

/** x · σ(x). */
export const silu = unary(
  'silu',
  (emit, x) => emit.node('Mul', [x, emit.node('Sigmoid', [x])]),
  (dy, x, y) => {
    const s = sigmoid(x);
    return mul(dy, add(mul(s, sub(1, y)), y));
  },
);

/** x · Φ(x), the exact form. */
export const gelu = unary('gelu', 'Gelu', (dy, x) => {
  const cdf = mul(add(erf(mul(x, Math.SQRT1_2)), 1), 0.5);
  const density = mul(exp(mul(square(x), -0.5)), 1 / Math.sqrt(2 * Math.PI));
  return mul(dy, add(cdf, mul(x, density)));
});

/** x · σ(1.702 x), CLIP's activation. */
export const quickGelu = (x: Tensor): Tensor => mul(x, sigmoid(mul(x, 1.702)));

/** max(x, slope · x), 0 < slope < 1. */
export const leakyRelu = (x: Tensor, slope: number): Tensor => maximum(x, mul(x, slope));

/** a > b as a bool, broadcast. Not differentiable. */
export const greater = binary('greater', 'Greater', null);
/** a < b as a bool, broadcast. Not differentiable. */
export const less = binary('less', 'Less', null);
/** a = b as a bool, broadcast. Not differentiable. */
export const equal = binary('equal', 'Equal', null);

/** The larger value; where both are equal the gradient goes to the first. */
export const maximum = binary('maximum', 'Max', (dy, a, b) => [
  where(less(a, b), 0, dy),
  where(less(a, b), dy, 0),
]);

/** The smaller value; where both are equal the gradient goes to the first. */
export const minimum = binary('minimum', 'Min', (dy, a, b) => [
  where(greater(a, b), 0, dy),
  where(greater(a, b), dy, 0),
]);

/** x kept within [low, high]. No gradient flows where x lies outside. */
export const clamp = (x: Tensor, low: number, high: number): Tensor =>
  minimum(maximum(x, low), high);

const whereOp = defineOp('where', {
  shape: ([test, a, b]) => {
    if (test.dtype !== 'bool') throw badArgument('where', `${test.dtype} is no bool`, 'compare');
    return {
      shape: broadcast('where', broadcast('where', test.shape, a.shape), b.shape),
      dtype: commonType('where', [a, b]),
    };
  },
  onnx: (emit, inputs) => emit.node('Where', inputs),
  vjp: (dy, [test, a, b]) => [
    null,
    sumTo(where(test, dy, 0), a.shape),
    sumTo(where(test, 0, dy), b.shape),
  ],
  cheap: true,
});

/** `a` where the bool `test` holds, else `b`. */
export const where = (test: Tensor, a: Operand, b: Operand): Tensor =>
  whereOp([test, tensor(a), tensor(b)], null);
