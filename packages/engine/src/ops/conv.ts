/** Two-dimensional convolution and its two adjoints, closed under differentiation. */

import { shapeMismatch } from '../errors.ts';
import { defineOp, type Emitter, type Value } from '../graph/op.ts';
import { sameShape, type Shape } from '../graph/shape.ts';
import type { Tensor } from '../graph/tensor.ts';
import { flipKernel, sum } from './structural.ts';

/** How a kernel goes over an image, the same in both directions but for the pads. */
export interface ConvAttrs {
  readonly stride: number;
  /** Zeros on [top, left, bottom, right]. */
  readonly pads: readonly [number, number, number, number];
}

const span = (x: number, k: number, before: number, after: number, stride: number): number =>
  Math.floor((x + before + after - k) / stride) + 1;

const conv2dOp = defineOp<ConvAttrs>('conv2d', {
  shape: ([x, w, b], { stride, pads }) => {
    if (x.rank !== 4 || w.rank !== 4 || x.dim(1) !== w.dim(1))
      throw shapeMismatch('conv2d', x.shape, w.shape, 'do not convolve');
    if (b && !sameShape(b.shape, [w.dim(0)]))
      throw shapeMismatch('conv2d', w.shape, b.shape, 'do not add');
    const height = span(x.dim(2), w.dim(2), pads[0], pads[2], stride);
    const width = span(x.dim(3), w.dim(3), pads[1], pads[3], stride);
    if (height < 1 || width < 1) throw shapeMismatch('conv2d', x.shape, w.shape, 'leave no pixel');
    return [x.dim(0), w.dim(0), height, width];
  },
  onnx: (emit, inputs, { attrs, inputs: [, w] }) =>
    emit.node('Conv', inputs, {
      kernel_shape: w.shape.slice(2),
      strides: [attrs.stride, attrs.stride],
      pads: attrs.pads,
    }),
  vjp: (dy, [x, w, b], { attrs }) => [
    convInputGrad(dy, w, x.shape, attrs),
    convWeightGrad(x, dy, w.shape, attrs),
    ...(b ? [sum(dy, [0, 2, 3])] : []),
  ],
});

/** x [N, I, H, W] ∗ w [O, I, h, w] (+ b [O]); `padding` is one number for all sides or four. */
export function conv2d(
  x: Tensor,
  weight: Tensor,
  bias?: Tensor,
  { stride = 1, padding = 0 }: { stride?: number; padding?: number | ConvAttrs['pads'] } = {},
): Tensor {
  const pads: ConvAttrs['pads'] =
    typeof padding === 'number' ? [padding, padding, padding, padding] : padding;
  return conv2dOp(bias ? [x, weight, bias] : [x, weight], { stride, pads });
}

interface InputGradAttrs extends ConvAttrs {
  readonly shape: Shape;
}

const convInputGradOp = defineOp<InputGradAttrs>('convInputGrad', {
  shape: (_, { shape }) => shape,
  onnx: (emit, inputs, { attrs: { shape, stride, pads }, inputs: [dy, w] }) =>
    emit.node('ConvTranspose', inputs, {
      kernel_shape: w.shape.slice(2),
      strides: [stride, stride],
      pads,
      output_padding: [2, 3].map(
        (axis) =>
          shape[axis] +
          pads[axis - 2] +
          pads[axis] -
          ((dy.shape[axis] - 1) * stride + w.shape[axis]),
      ),
    }),
  vjp: (ct, [dy, w], { attrs }) => [
    conv2dOp([ct, w], { stride: attrs.stride, pads: attrs.pads }),
    convWeightGrad(ct, dy, w.shape, attrs),
  ],
});

/**
 * The cotangent of a convolution's input. With stride 1 it is a plain convolution with the flipped kernel
 * (of a frozen one ONNX Runtime folds that or the planner caches it); else a transposed one.
 */
export function convInputGrad(dy: Tensor, w: Tensor, shape: Shape, attrs: ConvAttrs): Tensor {
  const { stride, pads } = attrs;
  const [kh, kw] = [w.dim(2), w.dim(3)];
  const adjoint = [kh - 1 - pads[0], kw - 1 - pads[1], kh - 1 - pads[2], kw - 1 - pads[3]] as const;
  if (stride === 1 && adjoint.every((side) => side >= 0))
    return conv2dOp([dy, flipKernel(w)], { stride: 1, pads: adjoint });
  return convInputGradOp([dy, w], { shape, stride, pads });
}

interface WeightGradAttrs extends ConvAttrs {
  readonly shape: Shape;
}

const convWeightGradOp = defineOp<WeightGradAttrs>('convWeightGrad', {
  shape: (_, { shape }) => shape,
  onnx: (emit, [x, dy], node) => weightGrad(emit, x, dy, node),
  vjp: (ct, [x, dy], { attrs }) => [
    convInputGradOp([dy, ct], { shape: x.shape, stride: attrs.stride, pads: attrs.pads }),
    conv2dOp([x, ct], { stride: attrs.stride, pads: attrs.pads }),
  ],
});

/** The cotangent of a convolution's kernel, shape [O, I, h, w]. */
export const convWeightGrad = (x: Tensor, dy: Tensor, shape: Shape, attrs: ConvAttrs): Tensor =>
  convWeightGradOp([x, dy], { shape, stride: attrs.stride, pads: attrs.pads });

/**
 * One matrix product per tap. Input and cotangent are laid on the same zero-padded grid
 * [C, N · Hp · Wp], so that a tap is a shift along its last axis.
 */
function weightGrad(emit: Emitter, x: Value, dy: Value, node: Tensor<WeightGradAttrs>): Value {
  const { shape, stride, pads } = node.attrs;
  const [xs, dys] = node.inputs.map((t) => t.shape);
  const [outs, ins, kh, kw] = shape;
  const [n, , h, w] = xs;
  const [rows, cols] = [h + pads[0] + pads[2], w + pads[1] + pads[3]];
  const grid = n * rows * cols;
  const flat = (value: Value, channels: number) =>
    emit.node('Reshape', [
      emit.node('Transpose', [value], { perm: [1, 0, 2, 3] }),
      emit.ints([channels, -1]),
    ]);
  const padded = pads.some((side) => side > 0)
    ? emit.node('Pad', [x, emit.ints([0, 0, pads[0], pads[1], 0, 0, pads[2], pads[3]])])
    : x;
  const spread = stride === 1 ? dy : dilated(emit, dy, dys, stride);
  const [dh, dw] = [2, 3].map((axis) => (dys[axis] - 1) * stride + 1);
  const dyGrid =
    dh === rows && dw === cols
      ? spread
      : emit.node('Pad', [spread, emit.ints([0, 0, 0, 0, 0, 0, rows - dh, cols - dw])]);
  const xFlat = flat(padded, ins);
  const dyFlat = flat(dyGrid, outs);
  const at = (value: Value, from: number, to: number) =>
    to - from === grid
      ? value
      : emit.node('Slice', [value, emit.ints([from]), emit.ints([to]), emit.ints([1])]);
  // Behind this the cotangent's grid holds zeros alone.
  const length = grid - ((kh - 1) * cols + kw - 1);
  const taps: Value[] = [];
  for (let i = 0; i < kh; i++)
    for (let j = 0; j < kw; j++) {
      const shift = i * cols + j;
      taps.push(
        emit.node('Gemm', [at(dyFlat, 0, length), at(xFlat, shift, shift + length)], { transB: 1 }),
      );
    }
  if (taps.length === 1) return emit.node('Reshape', [taps[0], emit.ints(shape)]);
  const stacked = taps.map((tap) => emit.node('Unsqueeze', [tap, emit.ints([2])]));
  return emit.node('Reshape', [emit.node('Concat', stacked, { axis: 2 }), emit.ints(shape)]);
}

/** Zeros between the values of the last two axes of [N, C, H, W]. */
function dilated(emit: Emitter, dy: Value, [n, c, h, w]: Shape, stride: number): Value {
  const cells = emit.node('Reshape', [dy, emit.ints([n, c, h, 1, w, 1])]);
  const gap = stride - 1;
  const zeros = emit.node('Pad', [cells, emit.ints([0, 0, 0, 0, 0, 0, 0, 0, 0, gap, 0, gap])]);
  const wide = emit.node('Reshape', [zeros, emit.ints([n, c, h * stride, w * stride])]);
  return emit.node('Slice', [
    wide,
    emit.ints([0, 0]),
    emit.ints([(h - 1) * stride + 1, (w - 1) * stride + 1]),
    emit.ints([2, 3]),
  ]);
}
