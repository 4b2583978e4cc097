/** Leaves: what a graph is made from. */

import { AttuneError, badArgument } from '../errors.ts';
import type { DType, NDArray } from '../runtime/array.ts';
import { defineOp } from './op.ts';
import { sameShape, type Shape } from './shape.ts';
import type { Tensor } from './tensor.ts';

/** How often a value can change: never, once per clip and optimiser step, or at every sampling step. */
export type Rate = 'fixed' | 'clip' | 'step';

interface InputAttrs {
  readonly name: string;
  readonly shape: Shape;
  readonly dtype: DType;
  readonly rate: Rate;
}

interface ParamAttrs {
  readonly name: string;
  readonly shape: Shape;
  /** Live parameters are fed at every run (trainables, low-rank matrices); others are initialisers. */
  readonly live: boolean;
}

const leaf = (name: string) => () => {
  throw new AttuneError('INTERNAL', `internal: a leaf (${name}) was emitted as a node.`);
};

const inputOp = defineOp<InputAttrs>('input', {
  shape: (_, { shape, dtype }) => ({ shape, dtype }),
  onnx: leaf('input'),
  vjp: () => [],
});

const paramOp = defineOp<ParamAttrs>('param', {
  shape: (_, { shape }) => ({ shape, dtype: 'f32' }),
  onnx: leaf('param'),
  vjp: () => [],
});

const constantOp = defineOp<{ readonly array: NDArray }>('constant', {
  shape: (_, { array }) => ({ shape: array.shape, dtype: array.dtype }),
  onnx: (emit, _, node) => emit.constant(node.attrs.array),
  vjp: () => [],
  cheap: true,
});

/** A value fed at every run. */
export const input = (
  name: string,
  shape: Shape,
  { dtype = 'f32', rate = 'step' }: { dtype?: DType; rate?: Rate } = {},
): Tensor => {
  if (dtype === 'bf16')
    throw badArgument(`input ${name}`, 'bf16 is for stored weights only', 'feed f32 or f16');
  return inputOp([], { name, shape, dtype, rate });
};

/** A named weight, f32 in the graph whatever its stored type. */
export const param = (name: string, shape: Shape, { live = false } = {}): Tensor =>
  paramOp([], { name, shape, live });

/** A literal array. */
export const constant = (array: NDArray): Tensor => constantOp([], { array });

/** An f32 scalar literal. */
export const scalar = (value: number): Tensor =>
  constant({ dtype: 'f32', shape: [], data: Float32Array.of(value) });

/** Whether a tensor is given and not computed: an input, a parameter or a constant. */
export const isLeaf = (t: Tensor): boolean => isInput(t) || isParam(t) || isConstant(t);
/** Whether a tensor is a literal array. */
export const isConstant = (t: Tensor): boolean => t.op.name === 'constant';
/** Whether a tensor is fed at every run, under the name in its `attrs`. */
export const isInput = (t: Tensor): t is Tensor<InputAttrs> => t.op.name === 'input';
/** Whether a tensor is a named weight, frozen or live. */
export const isParam = (t: Tensor): t is Tensor<ParamAttrs> => t.op.name === 'param';
/** A weight that is an initialiser of every program. */
export const isFrozen = (t: Tensor): boolean => isParam(t) && !t.attrs.live;

/** The scalar a constant holds, or undefined. */
export function literal(t: Tensor): number | undefined {
  if (t.op.name !== 'constant' || !sameShape(t.shape, [])) return undefined;
  return Number((t.attrs as { array: NDArray }).array.data[0]);
}
