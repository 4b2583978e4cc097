/**
 * Ops that move values: closed under differentiation, so they live together.
 * `sum` and `expand`, `slice` and `pad`, `gather` and `scatterAdd` are each other's adjoints.
 */

import { AttuneError, badArgument, shapeMismatch } from '../errors.ts';
import { constant } from '../graph/leaf.ts';
import { commonType, defineOp, type Emitter, type Value } from '../graph/op.ts';
import { axisOf, broadcast, resolveShape, sameShape, type Shape } from '../graph/shape.ts';
import type { Tensor } from '../graph/tensor.ts';
import type { DType } from '../runtime/array.ts';
import { f32, isFloat, sizeOf } from '../runtime/array.ts';

const reshapeOp = defineOp<{ shape: Shape }>('reshape', {
  shape: (_, { shape }) => shape,
  onnx: (emit, [x], node) =>
    emit.node('Reshape', [x, emit.ints(node.attrs.shape)], { allowzero: 1 }),
  vjp: (dy, [x]) => [reshape(dy, x.shape)],
  cheap: true,
});

/** The same values under another shape; one entry may be -1. */
export function reshape(x: Tensor, shape: Shape): Tensor {
  const to = resolveShape('reshape', shape, x.shape);
  if (sameShape(to, x.shape)) return x;
  const from = x.op.name === 'reshape' ? x.inputs[0] : x;
  return sameShape(to, from.shape) ? from : reshapeOp([from], { shape: to });
}

const transposeOp = defineOp<{ perm: readonly number[] }>('transpose', {
  shape: ([x], { perm }) => perm.map((axis) => x.shape[axis]),
  onnx: (emit, [x], { attrs: { perm }, inputs: [{ shape }] }) => turned(emit, x, shape, perm),
  vjp: (dy, _, node) => [transpose(dy, inverse(node.attrs.perm))],
  cheap: true,
});

/**
 * ONNX Runtime is fast where one axis moves past others. [… a, b, c] → [… c, b, a] goes in two such moves,
 * under shapes that keep it from making one of them.
 */
function turned(emit: Emitter, x: Value, shape: Shape, perm: readonly number[]): Value {
  const lead = perm.length - 3;
  const [a, b, c] = shape.slice(-3);
  const reversed = perm.every((axis, i) => axis === (i < lead ? i : 2 * lead + 2 - i));
  if (lead < 0 || !reversed || Math.min(a, b, c) === 1)
    return emit.node('Transpose', [x], { perm });
  const n = sizeOf(shape.slice(0, lead));
  const move = (value: Value, from: Shape, axes: readonly number[]) =>
    emit.node('Transpose', [emit.node('Reshape', [value, emit.ints(from)])], { perm: axes });
  const swapped = move(move(x, [n, a, b * c], [0, 2, 1]), [n, b, c, a], [0, 2, 1, 3]);
  return emit.node('Reshape', [swapped, emit.ints([...shape.slice(0, lead), c, b, a])]);
}

const inverse = (perm: readonly number[]): number[] => perm.map((_, i) => perm.indexOf(i));

/** Axis `i` of the result is axis `perm[i]` of `x`. */
export function transpose(x: Tensor, perm: readonly number[]): Tensor {
  const axes = perm.map((axis) => axisOf('transpose', axis, x.shape));
  if (axes.length !== x.rank || new Set(axes).size !== x.rank)
    throw new AttuneError('BAD_AXIS', `transpose: [${perm}] is no permutation of [${x.shape}].`);
  return axes.every((axis, i) => axis === i) ? x : transposeOp([x], { perm: axes });
}

/** Swaps the last two axes. */
export const swap = (x: Tensor): Tensor =>
  transpose(x, [...Array.from({ length: x.rank - 2 }, (_, i) => i), x.rank - 1, x.rank - 2]);

const expandOp = defineOp<{ shape: Shape }>('expand', {
  shape: ([x], { shape }) => {
    if (!sameShape(broadcast('expand', x.shape, shape), shape))
      throw shapeMismatch('expand', x.shape, shape, 'do not broadcast this way');
    return shape;
  },
  onnx: (emit, [x], node) => emit.node('Expand', [x, emit.ints(node.attrs.shape)]),
  vjp: (dy, [x]) => [sumTo(dy, x.shape)],
  cheap: true,
});

/** Repeats length-1 (or missing leading) axes up to `shape`. */
export const expand = (x: Tensor, shape: Shape): Tensor =>
  sameShape(x.shape, shape) ? x : expandOp([x], { shape });

/** An op that makes one value of all along some axes: its ONNX type, and its cotangent before that is repeated. */
export function reduction(
  name: string,
  onnx: string,
  dx: (dy: Tensor, x: Tensor) => Tensor,
): (x: Tensor, axes?: readonly number[], options?: { readonly keep?: boolean }) => Tensor {
  const op = defineOp<{ axes: readonly number[] }>(name, {
    shape: ([x], { axes }) => x.shape.map((dim, i) => (axes.includes(i) ? 1 : dim)),
    onnx: (emit, [x], node) => emit.node(onnx, [x, emit.ints(node.attrs.axes)], { keepdims: 1 }),
    vjp: (dy, [x]) => [expand(dx(dy, x), x.shape)],
  });
  return (x, axes, { keep = false } = {}) => {
    const over = (axes ?? x.shape.map((_, i) => i)).map((axis) => axisOf(name, axis, x.shape));
    const kept = over.length ? op([x], { axes: over }) : x;
    const left = x.shape.filter((_, i) => !over.includes(i));
    return keep ? kept : reshape(kept, left);
  };
}

/** Sum over `axes` (all by default); summed axes stay with length 1 where `keep` says so. */
export const sum = reduction('sum', 'ReduceSum', (dy) => dy);

/** The adjoint of broadcasting: sums `x` down to `shape`. */
export function sumTo(x: Tensor, shape: Shape): Tensor {
  if (sameShape(x.shape, shape)) return x;
  const lead = x.rank - shape.length;
  const axes = x.shape.flatMap((dim, i) =>
    i < lead || (shape[i - lead] === 1 && dim !== 1) ? [i] : [],
  );
  return reshape(sum(x, axes, { keep: true }), shape);
}

interface Window {
  readonly axis: number;
  readonly start: number;
  readonly end: number;
  readonly step: number;
}

const sliceOp = defineOp<Window>('slice', {
  shape: ([x], { axis, start, end, step }) =>
    x.shape.map((dim, i) => (i === axis ? Math.ceil((end - start) / step) : dim)),
  onnx: (emit, [x], { attrs: { start, end, axis, step } }) =>
    emit.node('Slice', [
      x,
      emit.ints([start]),
      emit.ints([end]),
      emit.ints([axis]),
      emit.ints([step]),
    ]),
  vjp: (dy, [x], { attrs: { axis, start, step } }) => {
    const spread = step === 1 ? dy : dilate(dy, axis, step);
    return [pad(spread, axis, start, x.shape[axis] - start - spread.shape[axis])];
  },
  cheap: true,
});

/** `x[start:end:step]` along one axis; negative bounds count from the end. */
export function slice(x: Tensor, axis: number, start: number, end?: number, step = 1): Tensor {
  const at = axisOf('slice', axis, x.shape);
  const dim = x.shape[at];
  const from = start < 0 ? start + dim : start;
  const to = end === undefined ? dim : end < 0 ? end + dim : end;
  if (!(from >= 0 && from < to && to <= dim && step >= 1))
    throw new AttuneError(
      'BAD_SLICE',
      `slice: [${start}:${end ?? ''}:${step}] of axis ${axis} of [${x.shape}].`,
    );
  if (from === 0 && to === dim && step === 1) return x;
  return sliceOp([x], { axis: at, start: from, end: to, step });
}

/** Puts step-1 zeros between (and, for the last, no zeros after) the values of one axis. */
function dilate(x: Tensor, axis: number, step: number): Tensor {
  const at = axis + 1;
  const apart = reshape(x, [...x.shape.slice(0, at), 1, ...x.shape.slice(at)]);
  const wide = reshape(
    pad(apart, at, 0, step - 1),
    x.shape.map((dim, i) => (i === axis ? dim * step : dim)),
  );
  return slice(wide, axis, 0, x.shape[axis] * step - (step - 1));
}

interface Padding {
  readonly axis: number;
  readonly before: number;
  readonly after: number;
}

const padOp = defineOp<Padding>('pad', {
  shape: ([x], { axis, before, after }) =>
    x.shape.map((dim, i) => (i === axis ? before + dim + after : dim)),
  onnx: (emit, [x], { attrs: { axis, before, after } }) =>
    emit.node('Pad', [x, emit.ints([before, after]), '', emit.ints([axis])]),
  vjp: (dy, [x], { attrs: { axis, before } }) => [slice(dy, axis, before, before + x.shape[axis])],
  cheap: true,
});

/** Zeros before and after the values of one axis. */
export function pad(x: Tensor, axis: number, before: number, after: number): Tensor {
  const at = axisOf('pad', axis, x.shape);
  if (before < 0 || after < 0)
    throw new AttuneError(
      'BAD_PAD',
      `pad: ${before} and ${after} on axis ${axis} of [${x.shape}].`,
    );
  return before + after === 0 ? x : padOp([x], { axis: at, before, after });
}

const concatOp = defineOp<{ axis: number }>('concat', {
  shape: (xs, { axis }) => {
    const [first, ...rest] = xs;
    commonType(`concat on axis ${axis}`, xs);
    for (const x of rest)
      if (x.rank !== first.rank || x.shape.some((dim, i) => i !== axis && dim !== first.shape[i]))
        throw shapeMismatch(`concat on axis ${axis}`, first.shape, x.shape, 'differ elsewhere');
    return first.shape.map((dim, i) => (i === axis ? xs.reduce((n, x) => n + x.shape[i], 0) : dim));
  },
  onnx: (emit, xs, node) => emit.node('Concat', xs, { axis: node.attrs.axis }),
  vjp: (dy, xs, { attrs: { axis } }) => {
    let start = 0;
    return xs.map((x) => slice(dy, axis, start, (start += x.shape[axis])));
  },
  cheap: true,
});

/** Joins tensors along one axis. */
export function concat(xs: readonly Tensor[], axis: number): Tensor {
  if (xs.length === 0) throw new AttuneError('BAD_ARGUMENT', 'concat: no tensors.');
  return xs.length === 1 ? xs[0] : concatOp(xs, { axis: axisOf('concat', axis, xs[0].shape) });
}

const castOp = defineOp<{ dtype: DType }>('cast', {
  shape: ([x], { dtype }) => ({ shape: x.shape, dtype }),
  onnx: (emit, [x], node) => emit.node('Cast', [x], { to: onnxType[node.attrs.dtype] }),
  // Cotangents are f32 whatever the float type between; integers carry none.
  vjp: (dy, [x], node) => [isFloat(x.dtype) && isFloat(node.attrs.dtype) ? dy : null],
  cheap: true,
});

/** ONNX's numbers for element types. */
export const onnxType: Readonly<Record<DType, number>> = {
  f32: 1,
  u8: 2,
  i32: 6,
  i64: 7,
  bool: 9,
  f16: 10,
  f64: 11,
  bf16: 16,
};

/** x with another element type. Gradients pass between float types, as f32; integers and bools carry none. */
export const cast = (x: Tensor, dtype: DType): Tensor =>
  x.dtype === dtype ? x : castOp([x], { dtype });

const gatherOp = defineOp('gather', {
  shape: ([table, ids]) => {
    if (ids.dtype !== 'i64' && ids.dtype !== 'i32')
      throw badArgument('gather', `ids are ${ids.dtype}, not integers`, 'cast them to i64');
    return { shape: [...ids.shape, ...table.shape.slice(1)], dtype: table.dtype };
  },
  onnx: (emit, inputs) => emit.node('Gather', inputs, { axis: 0 }),
  vjp: (dy, [table, ids]) => [scatterAdd(ids, dy, table.shape[0]), null],
});

/** Rows of `table` [N, …] named by integer `ids` of any shape. */
export const gather = (table: Tensor, ids: Tensor): Tensor => gatherOp([table, ids], null);

const scatterAddOp = defineOp<{ rows: number }>('scatterAdd', {
  shape: ([ids, x], { rows }) => ({ shape: [rows, ...x.shape.slice(ids.rank)], dtype: x.dtype }),
  onnx: (emit, [ids, x], node) => {
    const wide =
      node.inputs[0].dtype === 'i64' ? ids : emit.node('Cast', [ids], { to: onnxType.i64 });
    const index = emit.node('Unsqueeze', [wide, emit.ints([-1])]);
    const zero = emit.node('Expand', [emit.scalar(0), emit.ints(node.shape)]);
    return emit.node('ScatterND', [zero, index, x], { reduction: 'add' });
  },
  vjp: (dy, [ids]) => [null, gather(dy, ids)],
});

/** Adds row `k` of `x` to row `ids[k]` of a zero table [rows, …]. */
export const scatterAdd = (ids: Tensor, x: Tensor, rows: number): Tensor =>
  scatterAddOp([ids, x], { rows });

const upsampleOp = defineOp<{ factor: number }>('upsample', {
  shape: ([x], { factor }) => [x.dim(0), x.dim(1), x.dim(2) * factor, x.dim(3) * factor],
  onnx: (emit, [x], { attrs: { factor } }) =>
    emit.node('Resize', [x, '', emit.constant(f32([1, 1, factor, factor], [4]))], {
      coordinate_transformation_mode: 'asymmetric',
      mode: 'nearest',
      nearest_mode: 'floor',
    }),
  vjp: (dy, [x], { attrs: { factor } }) => {
    const [n, c, h, w] = x.shape;
    return [reshape(sum(reshape(dy, [n, c, h, factor, w, factor]), [3, 5]), x.shape)];
  },
  cheap: true,
});

/** Each pixel of [N, C, H, W] repeated `factor` × `factor` times (nearest-neighbour upsampling). */
export const upsample = (x: Tensor, factor: number): Tensor => upsampleOp([x], { factor });

const argmaxOp = defineOp<{ axis: number }>('argmax', {
  shape: ([x], { axis }) => ({ shape: x.shape.filter((_, i) => i !== axis), dtype: 'i64' }),
  onnx: (emit, [x], node) => emit.node('ArgMax', [x], { axis: node.attrs.axis, keepdims: 0 }),
  vjp: null,
});

/** Index (i64) of the first largest value along one axis, which disappears. */
export const argmax = (x: Tensor, axis: number): Tensor =>
  argmaxOp([x], { axis: axisOf('argmax', axis, x.shape) });

const flipKernelOp = defineOp('flipKernel', {
  shape: ([w]) => [w.shape[1], w.shape[0], w.shape[2], w.shape[3]],
  onnx: (emit, [w], { inputs: [{ shape }] }) => {
    const [, , h, width] = shape;
    const swapped = emit.node('Transpose', [w], { perm: [1, 0, 2, 3] });
    if (h === 1 && width === 1) return swapped;
    return emit.node('Slice', [
      swapped,
      emit.ints([-1, -1]),
      emit.ints([-h - 1, -width - 1]),
      emit.ints([2, 3]),
      emit.ints([-1, -1]),
    ]);
  },
  vjp: (dy) => [flipKernel(dy)],
  cheap: true,
});

/** A convolution kernel [O, I, h, w] with channels swapped and taps reversed: the kernel of the adjoint. */
export const flipKernel = (w: Tensor): Tensor => flipKernelOp([w], null);

const pickOp = defineOp<{ index: number }>('pick', {
  shape: ([x], { index }) => x.op.extras!(x.inputs, x.attrs)[index - 1],
  onnx: () => {
    throw new AttuneError('INTERNAL', 'internal: the emitter resolves pick by itself.');
  },
  vjp: null,
});

/** Output `index` ≥ 1 of a node that has several (statistics kept for a backward pass). */
export const pick = (x: Tensor, index: number): Tensor => pickOp([x], { index });

/** An f32 literal of any shape. */
export const values = (data: Float32Array | readonly number[], shape: Shape): Tensor =>
  constant(f32(data, shape));
