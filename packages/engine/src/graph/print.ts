/** Graphs as text, for people and for tests. */

import type { NDArray } from '../runtime/array.ts';
import { isInput, isParam } from './leaf.ts';
import { ancestors, type Tensor } from './tensor.ts';

/** One line per tensor that `outputs` need: `%3 = mul(%1, %2) [2, 3]`. */
export function show(outputs: Tensor | readonly Tensor[]): string {
  const roots = Array.isArray(outputs) ? (outputs as readonly Tensor[]) : [outputs as Tensor];
  const names = new Map<Tensor, string>();
  const lines: string[] = [];
  for (const t of ancestors(roots)) {
    const inline = literalText(t);
    if (inline !== undefined) {
      names.set(t, inline);
      continue;
    }
    const name = isInput(t) || isParam(t) ? t.attrs.name : `%${lines.length}`;
    names.set(t, name);
    const type = `${t.dtype === 'f32' ? '' : `${t.dtype} `}[${t.shape.join(', ')}]`;
    const args = [...t.inputs.map((x) => names.get(x) ?? '?'), ...attrText(t)];
    lines.push(
      isInput(t) || isParam(t)
        ? `${t.op.name} ${name} ${type}`
        : `${name} = ${t.op.name}(${args.join(', ')}) ${type}`,
    );
  }
  return [...lines, `return ${roots.map((t) => names.get(t)).join(', ')}`].join('\n');
}

function literalText(t: Tensor): string | undefined {
  if (t.op.name !== 'constant') return undefined;
  const { array } = t.attrs as { array: NDArray };
  if (array.data.length === 1) return String(array.data[0]);
  return `const${t.dtype === 'f32' ? '' : ` ${t.dtype}`}[${t.shape.join(', ')}]`;
}

function attrText(t: Tensor): string[] {
  if (t.attrs === null || t.op.name === 'reshape') return [];
  return Object.entries(t.attrs as object).map(
    ([key, value]) => `${key}=${Array.isArray(value) ? `[${value.join(', ')}]` : String(value)}`,
  );
}
