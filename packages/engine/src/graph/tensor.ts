/** Symbolic tensors: nodes of a lazy graph. Building one computes nothing but its shape. */

import type { DType } from '../runtime/array.ts';
import type { Op } from './op.ts';
import type { Shape } from './shape.ts';

let created = 0;

/** The number of tensors made so far: a position in trace order. */
export const tracePosition = (): number => created;

/** A value of the graph: an op applied to tensors. `id` is its place in trace order. */
export class Tensor<A = unknown> {
  readonly id: number = created++;
  readonly op: Op;
  readonly inputs: readonly Tensor[];
  readonly attrs: A;
  readonly shape: Shape;
  readonly dtype: DType;

  constructor(op: Op, inputs: readonly Tensor[], attrs: A, shape: Shape, dtype: DType) {
    this.op = op;
    this.inputs = inputs;
    this.attrs = attrs;
    this.shape = shape;
    this.dtype = dtype;
  }

  /** Number of axes; 0 for a scalar. */
  get rank(): number {
    return this.shape.length;
  }

  /** Number of values. */
  get size(): number {
    return this.shape.reduce((a, b) => a * b, 1);
  }

  /** Length of an axis; negative axes count from the end. */
  dim(axis: number): number {
    const dim = this.shape.at(axis);
    if (dim === undefined) throw new RangeError(`axis ${axis} of a shape [${this.shape}]`);
    return dim;
  }
}

/**
 * The tensors `outputs` need, inputs first (ascending id). The walk stops at `boundary`, whose
 * members are listed but not entered.
 */
export function ancestors(
  outputs: Iterable<Tensor>,
  boundary: { has(t: Tensor): boolean } = new Set(),
): Tensor[] {
  const seen = new Set<Tensor>();
  const stack = [...outputs];
  for (let t = stack.pop(); t; t = stack.pop()) {
    if (seen.has(t)) continue;
    seen.add(t);
    if (!boundary.has(t)) stack.push(...t.inputs);
  }
  return [...seen].toSorted((a, b) => a.id - b.id);
}
