/** Normalisation, softmax and attention. */

import { shapeMismatch } from '../errors.ts';
import { defineOp } from '../graph/op.ts';
import { axisOf, broadcast } from '../graph/shape.ts';
import type { Tensor } from '../graph/tensor.ts';
import { add, exp, mul, sub } from './elementwise.ts';
import { matmul, transposed } from './matmul.ts';
import { concat, pick, reduction, reshape, slice, sum, sumTo, swap } from './structural.ts';

/** Mean over `axes` (all by default); averaged axes stay with length 1 where `keep` says so. */
export const mean = reduction('mean', 'ReduceMean', (dy, x) => mul(dy, dy.size / x.size));

const normalizeOp = defineOp<{ eps: number }>('normalize', {
  shape: ([x]) => x.shape,
  extras: ([x]) => [[...x.shape.slice(0, -1), 1]],
  onnx: (emit, [x], node) => {
    const size = node.dim(-1);
    const epsilon = { float: node.attrs.eps };
    if (node.rank === 3 && !emit.wants(node, 1)) {
      const channels = emit.constant(filled(node.dim(1), 1));
      const zeros = emit.constant(filled(node.dim(1), 0));
      return emit.node('InstanceNormalization', [x, channels, zeros], { epsilon });
    }
    const ones = emit.constant(filled(size, 1));
    const [y, , inverse] = emit.nodes('LayerNormalization', [x, ones], { axis: -1, epsilon }, 3);
    emit.extras(node, [inverse]);
    return y;
  },
  vjp: (dy, _, y) => {
    const centred = sub(dy, mean(dy, [-1], { keep: true }));
    const along = mul(y, mean(mul(dy, y), [-1], { keep: true }));
    return [mul(pick(y, 1), sub(centred, along))];
  },
});

const filled = (length: number, value: number) => ({
  dtype: 'f32' as const,
  shape: [length],
  data: new Float32Array(length).fill(value),
});

/** (x − mean) / √(variance + eps) over the last axis, without an affine part. */
export const normalize = (x: Tensor, eps: number): Tensor => normalizeOp([x], { eps });

/** Layer normalisation over the last axis; weight and bias [C]. */
export const layerNorm = (x: Tensor, weight: Tensor, bias: Tensor, eps = 1e-5): Tensor =>
  add(mul(normalize(x, eps), weight), bias);

/** Group normalisation of [N, C, …]; weight and bias [C]. */
export function groupNorm(
  x: Tensor,
  groups: number,
  weight: Tensor,
  bias: Tensor,
  eps = 1e-5,
): Tensor {
  const [n, c, ...space] = x.shape;
  if (c % groups)
    throw shapeMismatch('groupNorm', x.shape, [groups], 'channels do not split into groups');
  const affine = [c, ...space.map(() => 1)];
  const normal = reshape(normalize(reshape(x, [n, groups, -1]), eps), x.shape);
  return add(mul(normal, reshape(weight, affine)), reshape(bias, affine));
}

const softmaxOp = defineOp<{ axis: number }>('softmax', {
  shape: ([x]) => x.shape,
  onnx: (emit, [x], node) => emit.node('Softmax', [x], { axis: node.attrs.axis }),
  vjp: (dy, _, y) => {
    const weighted = mul(dy, y);
    return [sub(weighted, mul(y, sum(weighted, [y.attrs.axis], { keep: true })))];
  },
});

/** exp(x) / Σ exp(x) along one axis. */
export const softmax = (x: Tensor, axis = -1): Tensor =>
  softmaxOp([x], { axis: axisOf('softmax', axis, x.shape) });

const logSumExpOp = defineOp<{ axis: number }>('logSumExp', {
  shape: ([x], { axis }) => x.shape.map((dim, i) => (i === axis ? 1 : dim)),
  onnx: (emit, [x], node) =>
    emit.node('ReduceLogSumExp', [x, emit.ints([node.attrs.axis])], { keepdims: 1 }),
  vjp: (dy, [x], y) => [mul(dy, exp(sub(x, y)))],
});

/** log Σ exp(x) along one axis, which stays with length 1. */
export const logSumExp = (x: Tensor, axis = -1): Tensor =>
  logSumExpOp([x], { axis: axisOf('logSumExp', axis, x.shape) });

const attendOp = defineOp<{ scale: number }>('attend', {
  shape: ([, , v, p]) => {
    if (p.dim(-1) !== v.dim(-2))
      throw shapeMismatch('attention', p.shape, v.shape, 'do not multiply');
    const lead = broadcast('attention', p.shape.slice(0, -2), v.shape.slice(0, -2));
    return [...lead, p.dim(-2), v.dim(-1)];
  },
  onnx: (emit, [, , v, p]) => emit.node('MatMul', [p, v]),
  vjp: (dy, [q, k, v, p, bias], y) => {
    // rowsum(P ∘ dP) = rowsum(O ∘ dO): the sum over keys becomes one over channels.
    const rows = sum(mul(y, dy), [-1], { keep: true });
    const centred = sub(matmul(dy, swap(v)), rows);
    const ds = mul(p, centred);
    // ONNX Runtime makes the factor part of the product.
    return [
      sumTo(mul(matmul(ds, k), y.attrs.scale), q.shape),
      sumTo(mul(transposed(ds, q), y.attrs.scale), k.shape),
      sumTo(transposed(p, dy), v.shape),
      null,
      ...(bias ? [sumTo(mul(p, centred), bias.shape)] : []),
    ];
  },
});

/** Bytes of scores and of probabilities that an attention holds at once: 256 MB. */
const MOST_HELD = 256e6;

interface AttentionOptions {
  /** Default: 1 / √d. */
  readonly scale?: number;
  /** A mask of 0 and −∞-like numbers, or learned; broadcasts to [… L, S]. */
  readonly bias?: Tensor;
  /** Bytes of scores and of probabilities, together, that are held at once. Default 256 MB. */
  readonly most?: number;
}

/**
 * softmax(q kᵀ · scale + bias) v for q [… L, d], k and v [… S, d]. The probabilities enter `attend` as a
 * value of their own, so that a backward pass can read them. Where they and the scores would take more
 * than `most`, the leading axes (clips, frames, heads) and then the queries are done in pieces, one after
 * another. That bounds every value, and what a pass without gradients holds; a backward pass that reads
 * the probabilities holds those of all pieces of its segment.
 */
export function attention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  { scale = 1 / Math.sqrt(q.dim(-1)), bias, most = MOST_HELD }: AttentionOptions = {},
): Tensor {
  const lead = broadcast('attention', q.shape.slice(0, -2), k.shape.slice(0, -2));
  const rows = [...lead, q.dim(-2)];
  const held = 2 * 4 * rows.reduce((n, dim) => n * dim, k.dim(-2));
  const first = rows.findIndex((dim) => dim > 1);
  if (held > most && first >= 0) {
    const axis = first - rows.length - 1; // counted from the end, where all operands agree
    const length = Math.max(1, Math.floor((rows[first] * most) / held));
    const pieces = Array.from({ length: Math.ceil(rows[first] / length) }, (_, i) => {
      const cut = (x: Tensor): Tensor =>
        x.rank < -axis || x.dim(axis) === 1
          ? x
          : slice(x, axis, i * length, Math.min((i + 1) * length, rows[first]));
      const [keys, read] = axis === -2 ? [k, v] : [cut(k), cut(v)];
      return attention(cut(q), keys, read, { scale, most, ...(bias && { bias: cut(bias) }) });
    });
    return concat(pieces, axis);
  }
  const scores = mul(matmul(q, swap(k)), scale);
  const p = softmax(bias ? add(scores, bias) : scores);
  return attendOp(bias ? [q, k, v, p, bias] : [q, k, v, p], { scale });
}

/** log of softmax along one axis. */
export const logSoftmax = (x: Tensor, axis = -1): Tensor => sub(x, logSumExp(x, axis));
