/** Which forward values a backward pass keeps, and which it computes again because that is cheap. */

import { isLeaf } from './leaf.ts';
import { rates } from './plan.ts';
import { ancestors, type Tensor } from './tensor.ts';

/**
 * The values a forward pass has to hand over so that `grads` follow from them, the `seeds`
 * (cotangents) and the leaves. Starts from the forward values that seed-dependent nodes read; a
 * cheap one is replaced by the kept values it follows from when those take no more room.
 */
export function savedValues(
  grads: readonly Tensor[],
  seeds: readonly Tensor[],
  crossing: readonly Tensor[],
): Tensor[] {
  const fed = new Set(crossing);
  const all = ancestors(grads, fed);
  const rate = rates(ancestors(grads));
  const late = new Set<Tensor>(seeds);
  for (const t of all) if (!fed.has(t) && t.inputs.some((x) => late.has(x))) late.add(t);

  const free = (t: Tensor) => isLeaf(t) || fed.has(t) || rate.get(t) === 'fixed';
  const read = new Set<Tensor>();
  for (const t of all)
    if (late.has(t)) for (const x of t.inputs) if (!late.has(x) && !free(x)) read.add(x);
  for (const t of grads) if (!late.has(t) && !free(t)) read.add(t);

  const saved = new Set<Tensor>();
  /** The dear values, not kept so far, from which a cheap one follows. */
  const roots = (t: Tensor): Tensor[] => {
    const kept = { has: (x: Tensor) => x !== t && (!x.op.cheap || free(x) || saved.has(x)) };
    return ancestors([t], kept).filter((x) => !x.op.cheap && !free(x) && !saved.has(x));
  };
  // Dear values first: they are kept anyway, and cheap ones may follow from them.
  const ordered = [...read].toSorted((a, b) => a.id - b.id);
  for (const t of ordered) if (!t.op.cheap) saved.add(t);
  for (const t of ordered) {
    if (!t.op.cheap) continue;
    const extra = roots(t);
    const room = extra.reduce((size, x) => size + x.size, 0);
    if (room <= t.size) for (const x of extra) saved.add(x);
    else saved.add(t);
  }
  return [...saved];
}
