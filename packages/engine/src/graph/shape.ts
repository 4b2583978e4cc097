/** Static shapes: broadcasting and axes. */

import { AttuneError, shapeMismatch } from '../errors.ts';

/** Lengths of the axes, outermost first; [] is a scalar. */
export type Shape = readonly number[];

/** Whether two shapes have the same axes. Nothing is broadcast. */
export const sameShape = (a: Shape, b: Shape): boolean =>
  a.length === b.length && a.every((dim, i) => dim === b[i]);

/** NumPy broadcasting of two shapes. */
export function broadcast(op: string, a: Shape, b: Shape): Shape {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, i) => {
    const left = a[a.length - rank + i] ?? 1;
    const right = b[b.length - rank + i] ?? 1;
    if (left !== right && left !== 1 && right !== 1)
      throw shapeMismatch(op, a, b, 'do not broadcast');
    return left === 1 ? right : left;
  });
}

/** An axis in [-rank, rank) as one in [0, rank). */
export function axisOf(op: string, axis: number, shape: Shape): number {
  const at = axis < 0 ? axis + shape.length : axis;
  if (!Number.isInteger(at) || at < 0 || at >= shape.length)
    throw new AttuneError('BAD_AXIS', `${op}: axis ${axis} is outside a shape [${shape}].`, {
      op,
      axis,
      shape,
    });
  return at;
}

/** `shape` with one `-1` entry resolved so that it holds `size` values. */
export function resolveShape(op: string, shape: Shape, from: Shape): Shape {
  const size = from.reduce((a, b) => a * b, 1);
  const known = shape.reduce((a, b) => (b === -1 ? a : a * b), 1);
  const out = shape.map((dim) => (dim === -1 ? size / known : dim));
  if (
    shape.filter((dim) => dim === -1).length > 1 ||
    out.some((dim) => !Number.isInteger(dim) || dim < 0) ||
    out.reduce((a, b) => a * b, 1) !== size
  )
    throw shapeMismatch(op, from, shape, 'hold different numbers of values');
  return out;
}
