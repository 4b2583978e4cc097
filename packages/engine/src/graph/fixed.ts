/** Which values of a graph depend on frozen weights alone and are worth computing once. */

import { itemSize, sizeOf } from '../runtime/array.ts';
import { isConstant, isFrozen, isLeaf } from './leaf.ts';
import { ancestors, type Tensor } from './tensor.ts';

/** Smaller values stay in their graphs, in bytes: a file costs more than it saves (`bench/fixed.mjs`). */
const LEAST = 2 ** 20;

/**
 * Ops that only look at their input in another way. Of a weight itself nothing is gained by storing that:
 * ONNX Runtime's products read a transposed weight in place.
 */
const views = new Set(['reshape', 'cast', 'expand', 'slice', 'transpose']);

/**
 * The fixed values that others read, each with the value to store for it: itself, or what it is another
 * shape of. Outputs are not among them: who asks for a fixed value itself asks once.
 */
export function fixedValues(
  outputs: readonly Tensor[],
  boundary: { has(t: Tensor): boolean },
): Map<Tensor, Tensor> {
  const fixed = new Set<Tensor>();
  const found = new Map<Tensor, Tensor>();
  for (const t of ancestors(outputs, boundary)) {
    if (boundary.has(t)) continue;
    if (isLeaf(t) ? isFrozen(t) || isConstant(t) : t.inputs.every((x) => fixed.has(x)))
      fixed.add(t);
    else for (const x of t.inputs) if (fixed.has(x) && isWorthwhile(x)) found.set(x, unshaped(x));
  }
  return found;
}

function isWorthwhile(t: Tensor): boolean {
  if (sizeOf(t.shape) * itemSize[t.dtype] < LEAST) return false;
  let made = t;
  while (views.has(made.op.name)) made = made.inputs[0];
  return !isLeaf(made);
}

function unshaped(t: Tensor): Tensor {
  let from = t;
  while (from.op.name === 'reshape') from = from.inputs[0];
  return from;
}
