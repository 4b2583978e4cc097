/** Products of matrices, and the way a low-rank delta is added to one. */

import { shapeMismatch } from '../errors.ts';
import { defineOp } from '../graph/op.ts';
import { axisOf, broadcast, sameShape } from '../graph/shape.ts';
import type { Tensor } from '../graph/tensor.ts';
import { add, mul } from './elementwise.ts';
import { reshape, slice, sumTo, swap } from './structural.ts';

const matmulOp = defineOp('matmul', {
  shape: ([a, b]) => {
    if (a.rank < 2 || b.rank < 2 || a.dim(-1) !== b.dim(-2))
      throw shapeMismatch('matmul', a.shape, b.shape, 'do not multiply');
    return [
      ...broadcast('matmul', a.shape.slice(0, -2), b.shape.slice(0, -2)),
      a.dim(-2),
      b.dim(-1),
    ];
  },
  onnx: (emit, inputs) => emit.node('MatMul', inputs),
  vjp: (dy, [a, b]) => [sumTo(matmul(dy, swap(b)), a.shape), sumTo(transposed(a, dy), b.shape)],
});

/** [… m, k] × [… k, n] → [… m, n]; leading axes broadcast. */
export const matmul = (a: Tensor, b: Tensor): Tensor => matmulOp([a, b], null);

/**
 * aᵀ · b. ONNX Runtime copies a transposed first operand number by number, so that where it is the
 * larger one, (bᵀ · a)ᵀ is faster.
 */
export const transposed = (a: Tensor, b: Tensor): Tensor =>
  a.dim(-1) > b.dim(-1) ? swap(matmul(swap(b), a)) : matmul(swap(a), b);

interface GemmAttrs {
  readonly transA: boolean;
  readonly transB: boolean;
}

const gemmOp = defineOp<GemmAttrs>('gemm', {
  shape: ([a, b, c], { transA, transB }) => {
    if (a.rank !== 2 || b.rank !== 2)
      throw shapeMismatch('gemm', a.shape, b.shape, 'do not multiply');
    const [m, k] = transA ? [a.dim(1), a.dim(0)] : [a.dim(0), a.dim(1)];
    const [inner, n] = transB ? [b.dim(1), b.dim(0)] : [b.dim(0), b.dim(1)];
    if (k !== inner)
      throw shapeMismatch(
        'gemm',
        a.shape,
        b.shape,
        `do not multiply (transA ${transA}, transB ${transB})`,
      );
    if (c && broadcast('gemm', c.shape, [m, n]).join() !== `${m},${n}`)
      throw shapeMismatch('gemm', [m, n], c.shape, 'do not add');
    return [m, n];
  },
  onnx: (emit, inputs, { attrs: { transA, transB } }) =>
    emit.node('Gemm', inputs, { transA: Number(transA), transB: Number(transB) }),
  vjp: (dy, [a, b, c], { attrs: { transA, transB } }) => [
    transA ? gemm(b, dy, { transA: transB, transB: true }) : gemm(dy, b, { transB: !transB }),
    transB ? gemm(dy, a, { transA: true, transB: transA }) : gemm(a, dy, { transA: !transA }),
    ...(c ? [sumTo(dy, c.shape)] : []),
  ],
});

/**
 * A′ · B′ + c for matrices, A′ and B′ transposed where asked; `c` broadcasts to the result. A larger first
 * operand that is transposed alone goes as in `transposed`.
 */
export function gemm(
  a: Tensor,
  b: Tensor,
  { transA = false, transB = false, c }: { transA?: boolean; transB?: boolean; c?: Tensor } = {},
): Tensor {
  const product = gemmOp(c ? [a, b, c] : [a, b], { transA, transB }); // refuses what does not fit
  return transA && !transB && !c && a.dim(1) > b.dim(1) ? transposed(a, b) : product;
}

/** x [… in] · Wᵀ + b, with W [out, in] as PyTorch stores it. */
export function linear(x: Tensor, weight: Tensor, bias?: Tensor): Tensor {
  const flat = reshape(x, [-1, x.dim(-1)]);
  const y = gemm(flat, weight, bias ? { transB: true, c: bias } : { transB: true });
  return reshape(y, [...x.shape.slice(0, -1), weight.dim(0)]);
}

/**
 * value + gate · delta. The sum is the same whatever the delta; where it is a product without an
 * addend, the gate moves to its smaller operand and the value becomes the product's addend.
 */
export function accumulate(value: Tensor, delta: Tensor, gate?: Tensor): Tensor {
  const inner = delta.op.name === 'reshape' ? delta.inputs[0] : delta;
  const scalarGate = gate === undefined || gate.size === 1;
  if (
    inner.op.name !== 'gemm' ||
    inner.inputs.length !== 2 ||
    !scalarGate ||
    !sameShape(delta.shape, value.shape)
  )
    return add(value, gate ? mul(delta, gate) : delta);
  const { transA, transB } = inner.attrs as GemmAttrs;
  const [a, b] = gate ? gated(inner.inputs, reshape(gate, [])) : inner.inputs;
  const sum = gemm(a, b, { transA, transB, c: reshape(value, inner.shape) });
  return reshape(sum, value.shape);
}

const gated = ([a, b]: readonly Tensor[], gate: Tensor): Tensor[] =>
  a.size < b.size ? [mul(a, gate), b] : [a, mul(b, gate)];

/** Cuts one axis into parts of the given lengths. The columns of a product are cut from its factor. */
export function split(x: Tensor, lengths: readonly number[], axis: number): Tensor[] {
  if (lengths.reduce((a, b) => a + b, 0) !== x.dim(axis))
    throw shapeMismatch('split', lengths, [x.dim(axis)], 'have different sums');
  const last = axisOf('split', axis, x.shape) === x.rank - 1;
  let start = 0;
  return lengths.map((length) => {
    const [from, to] = [start, (start += length)];
    return last ? columns(x, from, to) : slice(x, axis, from, to);
  });
}

function columns(x: Tensor, from: number, to: number): Tensor {
  const inner = x.op.name === 'reshape' ? x.inputs[0] : x;
  if (inner.op.name !== 'gemm' || inner.dim(-1) !== x.dim(-1)) return slice(x, -1, from, to);
  const [a, b, c] = inner.inputs;
  const { transA, transB } = inner.attrs as GemmAttrs;
  const addend = c?.dim(-1) === 1 ? c : c && columns(c, from, to);
  const part = gemm(a, slice(b, transB ? 0 : 1, from, to), { transA, transB, c: addend });
  return reshape(part, [...x.shape.slice(0, -1), to - from]);
}
