/** Which forward values a backward pass keeps, and which it computes again because that is cheap. */

import { isLeaf } from './leaf.ts';
import { rates } from './plan.ts';
import { ancestors, type Tensor } from './tensor.ts';

/**
 * The values a forward pass has to hand over so that `grads` follow from them, the `seeds`
 * (cotangents) and the leaves. Starts from the forward values that seed-dependent nodes read;
 * cheap ones give way to the values they follow from where those take no more room.
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
  const ordered = [...read].toSorted((x, y) => x.id - y.id);
  // Dear values first: they are kept anyway, and cheap ones may follow from them.
  for (const t of ordered) if (!t.op.cheap) saved.add(t);
  // Then all cheap ones that follow from the same dear values, together: a GEGLU's two halves and its
  // slope take more room than the product they come from.
  const groups = new Map<string, { readonly from: Tensor[]; readonly values: Tensor[] }>();
  for (const t of ordered) {
    if (!t.op.cheap) continue;
    const from = roots(t);
    const key = from.map(({ id }) => id).join();
    const group = groups.get(key) ?? { from, values: [] };
    group.values.push(t);
    groups.set(key, group);
  }
  for (const { from, values } of groups.values()) {
    const anew = from.filter((x) => !saved.has(x));
    for (const x of room(anew) <= room(values) ? anew : values) saved.add(x);
  }
  // What a later group keeps may be enough for an earlier one.
  for (const t of saved) if (t.op.cheap && roots(t).length === 0) saved.delete(t);
  return [...saved];
}

const room = (values: readonly Tensor[]): number => values.reduce((sum, { size }) => sum + size, 0);
