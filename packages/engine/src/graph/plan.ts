/**
 * How a graph is cut: by rate (what can change when) and by marks (runs of nodes). A segment's
 * inputs are all values that cross into it, found from the graph; results never depend on the cut.
 */

import { isFrozen, isInput, isLeaf, type Rate } from './leaf.ts';
import { ancestors, type Tensor } from './tensor.ts';

/** A traced function: named outputs and the trace positions at which it may be cut. */
export interface Traced {
  readonly outputs: Readonly<Record<string, Tensor>>;
  readonly marks: readonly number[];
}

/** A piece of a graph that runs as one model. */
export interface Segment {
  readonly rate: 'clip' | 'step';
  /** Values of earlier segments that are read here. */
  readonly crossing: readonly Tensor[];
  /** Values made here that others read: later segments, or the caller. */
  readonly outputs: readonly Tensor[];
}

/** How finely a graph is cut. */
export interface PlanOptions {
  /** At most this many segments of each rate, or one per run of nodes between marks. Default 1. */
  readonly segments?: number | 'marks';
  /** Whether clip-rate values get segments of their own. Default true. */
  readonly split?: boolean;
}

const order: readonly Rate[] = ['fixed', 'clip', 'step'];

/** The rate of every tensor: the fastest among its leaves. */
export function rates(tensors: readonly Tensor[]): Map<Tensor, Rate> {
  const found = new Map<Tensor, Rate>();
  for (const t of tensors) {
    const own: Rate = isInput(t)
      ? t.attrs.rate
      : t.op.name === 'param' && !isFrozen(t)
        ? 'clip'
        : 'fixed';
    const rank = t.inputs.reduce(
      (top, x) => Math.max(top, order.indexOf(found.get(x)!)),
      order.indexOf(own),
    );
    found.set(t, order[rank]);
  }
  return found;
}

/** Cuts a graph into segments, in the order in which they run. */
export function plan(
  { outputs, marks }: Traced,
  { segments = 1, split = true }: PlanOptions = {},
): Segment[] {
  const roots = Object.values(outputs);
  const alive = ancestors(roots);
  const rate = rates(alive);
  const groupOf = grouping(alive, marks, segments);

  // Fixed values belong to no segment: whoever reads one computes it (or finds it precomputed).
  // A further output of a node (`pick`) is made where the node is.
  const keyOf = (t: Tensor): number | undefined => {
    if (t.op.name === 'pick') return keyOf(t.inputs[0]);
    if (isLeaf(t) || rate.get(t) === 'fixed') return undefined;
    return (split && rate.get(t) === 'clip' ? 0 : 2 ** 20) + groupOf(t);
  };
  const keys = [...new Set(alive.map(keyOf))].filter((key) => key !== undefined);
  keys.sort((a, b) => a - b);
  // Outputs that belong nowhere come last; an input of rate `step` needs a step.
  const fed = roots.some((t) => isLeaf(t) && rate.get(t) === 'step');
  const last = fed ? Math.max(keys.at(-1) ?? 0, 2 ** 20) : (keys.at(-1) ?? 2 ** 20);

  const parts = new Map<number, { crossing: Set<Tensor>; outputs: Set<Tensor> }>();
  for (const key of [...keys, last]) parts.set(key, { crossing: new Set(), outputs: new Set() });
  for (const t of alive) {
    const key = keyOf(t);
    if (key === undefined) continue;
    for (const x of t.inputs) {
      const from = keyOf(x);
      if (from === undefined || from === key) continue;
      parts.get(key)!.crossing.add(x);
      parts.get(from)!.outputs.add(x);
    }
  }
  for (const t of roots) parts.get(keyOf(t) ?? last)!.outputs.add(t);
  return [...parts].map(([key, part]) => ({
    rate: key < 2 ** 20 ? 'clip' : 'step',
    crossing: [...part.crossing],
    outputs: [...part.outputs],
  }));
}

/** Maps a tensor to its group: consecutive runs between marks, balanced by arithmetic. */
function grouping(
  alive: readonly Tensor[],
  marks: readonly number[],
  segments: number | 'marks',
): (t: Tensor) => number {
  const runOf = (t: Tensor): number => {
    let low = 0;
    let high = marks.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (marks[middle] <= t.id) low = middle + 1;
      else high = middle;
    }
    return low;
  };
  if (segments === 'marks') return runOf;
  if (segments <= 1) return () => 0;
  const cost = Array.from({ length: marks.length + 1 }, () => 0);
  for (const t of alive) cost[runOf(t)] += flops(t);
  const total = cost.reduce((a, b) => a + b, 0) || 1;
  let before = 0;
  const groups = cost.map((own) => {
    const group = Math.min(segments - 1, Math.floor((before / total) * segments));
    before += own;
    return group;
  });
  return (t) => groups[runOf(t)];
}

/** Floating-point operations of one node, multiply and add counted as two. */
export function flops(t: Tensor): number {
  if (isLeaf(t)) return 0;
  switch (t.op.name) {
    case 'matmul':
    case 'attend':
      return 2 * t.size * (t.op.name === 'attend' ? t.inputs[3].dim(-1) : t.inputs[0].dim(-1));
    case 'gemm':
      return (2 * t.inputs[0].size * t.inputs[1].size * t.size) ** 0.5 * Math.SQRT2;
    case 'conv2d':
      return (2 * t.size * t.inputs[1].size) / t.inputs[1].dim(0);
    case 'convInputGrad':
      return (2 * t.inputs[0].size * t.inputs[1].size) / t.inputs[1].dim(0);
    case 'convWeightGrad':
      return (2 * t.inputs[1].size * t.size) / t.dim(0);
    default:
      return t.size;
  }
}
