/** An op is one entry: its shape rule, its ONNX emission and its vector-Jacobian product. */

import { AttuneError } from '../errors.ts';
import type { DType, NDArray } from '../runtime/array.ts';
import type { Shape } from './shape.ts';
import { Tensor } from './tensor.ts';

/** A name in the emitted ONNX graph. */
export type Value = string;

/** ONNX attributes: integers, integer lists and strings as they are, floats wrapped. */
export type OnnxAttrs = Readonly<Record<string, number | readonly number[] | string | Float>>;
export interface Float {
  readonly float: number;
}

/** What an op writes its nodes to. Equal nodes are written once. */
export interface Emitter {
  /** Appends a node with one output. */
  node(type: string, inputs: readonly Value[], attrs?: OnnxAttrs): Value;
  /** Appends a node with `count` outputs. */
  nodes(type: string, inputs: readonly Value[], attrs: OnnxAttrs, count: number): Value[];
  /** An array as an initialiser; equal ones are written once. */
  constant(array: NDArray): Value;
  /** An f32 scalar. */
  scalar(value: number): Value;
  /** A one-dimensional i64 constant: shapes, axes, indices. */
  ints(values: readonly number[]): Value;
  /** True when somebody reads output `index` > 0 of this node (see `pick`). */
  wants(node: Tensor, index: number): boolean;
  /** Declares the values behind `pick(node, 1…)`. */
  extras(node: Tensor, values: readonly Value[]): void;
}

/** All that the engine knows about an op. `A` is the type of its attributes (`null`: it has none). */
export interface OpRule<A> {
  /** The result's shape, with its dtype where that is not the first input's. Throws on misfits. */
  shape(inputs: readonly Tensor[], attrs: A): Shape | { shape: Shape; dtype: DType };
  /**
   * Writes the nodes that compute it (ai.onnx, opset 21) and returns the name of the result. `inputs` are
   * the names of the operands, in order; shapes and attributes are read from `node`.
   */
  onnx(emit: Emitter, inputs: readonly Value[], node: Tensor<A>): Value;
  /**
   * One cotangent per input, shaped like it; null where none flows on purpose.
   * The whole rule is null for an op that is not differentiable.
   */
  vjp:
    | ((dy: Tensor, inputs: readonly Tensor[], node: Tensor<A>) => readonly (Tensor | null)[])
    | null;
  /** Shapes of outputs 1…, read with `pick`. */
  extras?(inputs: readonly Tensor[], attrs: A): readonly Shape[];
  /** True when computing it again costs less than keeping it. */
  cheap?: boolean;
}

/** An op under its name, as a tensor refers to it. */
export interface Op extends OpRule<unknown> {
  readonly name: string;
}

/** Builds nodes of one op. */
export type OpBuilder<A> = (inputs: readonly Tensor[], attrs: A) => Tensor;

/**
 * Makes an op from its rule. The function that comes back builds its nodes: it asks `rule.shape` at once,
 * which throws for operands that do not fit, and computes nothing else. `name` is what `show` prints.
 */
export function defineOp<A = null>(name: string, rule: OpRule<A>): OpBuilder<A> {
  const op = { name, ...rule } as Op;
  return (inputs, attrs) => {
    const result = rule.shape(inputs, attrs);
    const typed = 'shape' in result ? result : { shape: result, dtype: inputs[0]?.dtype ?? 'f32' };
    return new Tensor<A>(op, inputs, attrs, typed.shape, typed.dtype);
  };
}

/** The one element type of some operands. */
export function commonType(op: string, [first, ...rest]: readonly Tensor[]): DType {
  const other = rest.find((x) => x.dtype !== first.dtype);
  if (!other) return first.dtype;
  throw new AttuneError(
    'TYPE_MISMATCH',
    `${op}: ${first.dtype} and ${other.dtype} do not mix; cast one of them.`,
    { op, a: first.dtype, b: other.dtype },
  );
}
