/** How much memory a model's values take when its nodes run one after another. */

import { itemSize, sizeOf } from '../runtime/array.ts';
import { isLeaf, isParam } from './leaf.ts';
import { ancestors, type Tensor } from './tensor.ts';

/**
 * Bytes held at once by a model of `outputs` that is fed its `boundary` and inputs: what its nodes make,
 * each until its last reader is done, and the f32 copies of those frozen weights that `isCast` says are
 * stored in another type, all along. What is fed is the caller's.
 */
export function peakBytes(
  outputs: readonly Tensor[],
  boundary: { has(t: Tensor): boolean },
  isCast: (name: string) => boolean,
): number {
  const made: Tensor[] = [];
  let casts = 0;
  for (const t of ancestors(outputs, boundary)) {
    if (boundary.has(t)) continue;
    if (!isLeaf(t)) made.push(t);
    else if (isParam(t) && !t.attrs.live && isCast(t.attrs.name)) casts += bytesOf(t);
  }
  const last = new Map<Tensor, number>();
  made.forEach((t, i) => {
    for (const x of [t, ...t.inputs]) last.set(x, i);
  });
  for (const t of outputs) last.set(t, made.length);
  const ending = made.map((): Tensor[] => []);
  for (const t of made) ending[last.get(t)!]?.push(t);
  let held = 0;
  let peak = 0;
  made.forEach((t, i) => {
    held += bytesOf(t);
    peak = Math.max(peak, held);
    for (const x of ending[i]) held -= bytesOf(x);
  });
  return casts + peak;
}

const bytesOf = ({ shape, dtype }: Tensor): number => sizeOf(shape) * itemSize[dtype];
