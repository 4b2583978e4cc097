/** What ops mean, in float64: an array is a shape and a function of the index. */

import type { Shape } from '../../src/index.ts';

export interface Grid {
  readonly shape: Shape;
  readonly data: Float64Array;
}

export type Index = readonly number[];

/** The array whose entry at `index` is `value(index)`. */
export function make(shape: Shape, value: (index: Index) => number): Grid {
  const index = shape.map(() => 0);
  const size = shape.reduce((a, b) => a * b, 1);
  const data = Float64Array.from({ length: size }, () => {
    const entry = value(index);
    for (let axis = shape.length - 1; axis >= 0 && ++index[axis] === shape[axis]; axis--)
      index[axis] = 0;
    return entry;
  });
  return { shape, data };
}

/** An entry of `x`; axes of length 1 and missing leading axes broadcast. */
export function at(x: Grid, index: Index): number {
  const lead = index.length - x.shape.length;
  let place = 0;
  for (const [axis, dim] of x.shape.entries())
    place = place * dim + (dim === 1 ? 0 : index[lead + axis]);
  return x.data[place];
}

/** An entry of `x`, or 0 outside of it. */
export const padded = (x: Grid, index: Index): number =>
  index.every((i, axis) => Number.isInteger(i) && i >= 0 && i < x.shape[axis]) ? at(x, index) : 0;

/** Σ f(i) for 0 ≤ i < n. */
export function total(n: number, f: (i: number) => number): number {
  let sum = 0;
  for (let i = 0; i < n; i++) sum += f(i);
  return sum;
}

/** `index` with one axis replaced. */
export const put = (index: Index, axis: number, value: number): Index => index.with(axis, value);

export const map = (x: Grid, f: (x: number) => number): Grid => ({
  shape: x.shape,
  data: x.data.map(f),
});

/** f of two or more broadcast arrays. */
export function zip(f: (...xs: number[]) => number, ...grids: readonly Grid[]): Grid {
  const rank = Math.max(...grids.map((x) => x.shape.length));
  const shape = Array.from({ length: rank }, (_, i) =>
    Math.max(...grids.map((x) => x.shape[i - rank + x.shape.length] ?? 1)),
  );
  return make(shape, (index) => f(...grids.map((x) => at(x, index))));
}

/** The same values under another shape. */
export const as = (x: Grid, shape: Shape): Grid => ({ shape, data: x.data });

/** Σ over one axis, which stays with length 1. */
export const sumAxis = (x: Grid, axis: number): Grid =>
  make(x.shape.with(axis, 1), (index) => total(x.shape[axis], (i) => at(x, put(index, axis, i))));

export const permuted = (x: Grid, perm: readonly number[]): Grid =>
  make(
    perm.map((axis) => x.shape[axis]),
    (index) =>
      at(
        x,
        perm.map((_, axis) => index[perm.indexOf(axis)]),
      ),
  );

export function matmul(a: Grid, b: Grid): Grid {
  const lead = zip(
    () => 0,
    make(a.shape.slice(0, -2), () => 0),
    make(b.shape.slice(0, -2), () => 0),
  ).shape;
  return make([...lead, a.shape.at(-2)!, b.shape.at(-1)!], (index) => {
    const [batch, i, j] = [index.slice(0, -2), index.at(-2)!, index.at(-1)!];
    return total(a.shape.at(-1)!, (k) => at(a, [...batch, i, k]) * at(b, [...batch, k, j]));
  });
}

export interface Conv {
  readonly stride: number;
  readonly pads: readonly [number, number, number, number];
}

export function conv(x: Grid, w: Grid, b: Grid | undefined, { stride, pads }: Conv): Grid {
  const [n, channels, ...space] = x.shape;
  const [outs, , ...kernel] = w.shape;
  const out = space.map(
    (dim, i) => Math.floor((dim + pads[i] + pads[i + 2] - kernel[i]) / stride) + 1,
  );
  return make(
    [n, outs, ...out],
    ([row, o, y, z]) =>
      total(channels, (c) =>
        taps(
          kernel,
          (i, j) =>
            at(w, [o, c, i, j]) *
            padded(x, [row, c, y * stride + i - pads[0], z * stride + j - pads[1]]),
        ),
      ) + (b ? at(b, [o]) : 0),
  );
}

/** The adjoint of `conv` in its input. */
export function convInputGrad(dy: Grid, w: Grid, shape: Shape, { stride, pads }: Conv): Grid {
  return make(shape, ([row, c, y, z]) =>
    total(w.shape[0], (o) =>
      taps(
        w.shape.slice(2),
        (i, j) =>
          at(w, [o, c, i, j]) *
          padded(dy, [row, o, (y + pads[0] - i) / stride, (z + pads[1] - j) / stride]),
      ),
    ),
  );
}

/** The adjoint of `conv` in its kernel. */
export function convWeightGrad(x: Grid, dy: Grid, shape: Shape, { stride, pads }: Conv): Grid {
  return make(shape, ([o, c, i, j]) =>
    total(dy.shape[0], (row) =>
      taps(
        dy.shape.slice(2),
        (y, z) =>
          at(dy, [row, o, y, z]) *
          padded(x, [row, c, y * stride + i - pads[0], z * stride + j - pads[1]]),
      ),
    ),
  );
}

const taps = ([h, w]: readonly number[], f: (i: number, j: number) => number): number =>
  total(h, (i) => total(w, (j) => f(i, j)));

export function softmax(x: Grid, axis: number): Grid {
  const powers = map(x, Math.exp);
  return zip((a, b) => a / b, powers, sumAxis(powers, axis));
}

/** (x − mean) / √(variance + eps) over the last axis. */
export function normalize(x: Grid, eps: number): Grid {
  const [last, n] = [x.shape.length - 1, x.shape.at(-1)!];
  const mean = map(sumAxis(x, last), (s) => s / n);
  const centred = zip((a, b) => a - b, x, mean);
  const variance = map(sumAxis(map(centred, square), last), (s) => s / n);
  return zip((a, b) => a / Math.sqrt(b + eps), centred, variance);
}

export function attention(q: Grid, k: Grid, v: Grid, scale: number, bias?: Grid): Grid {
  const rank = k.shape.length;
  const keys = permuted(k, [...k.shape.keys()].slice(0, -2).concat(rank - 1, rank - 2));
  const scores = map(matmul(q, keys), (s) => s * scale);
  const biased = bias ? zip((a, b) => a + b, scores, bias) : scores;
  return matmul(softmax(biased, biased.shape.length - 1), v);
}

const square = (x: number): number => x * x;

/** The error function by its power series, good for |x| < 5. */
export function erf(x: number): number {
  let term = x;
  let sum = x;
  for (let n = 1; n < 120; n++) {
    term *= -(x * x) / n;
    sum += term / (2 * n + 1);
  }
  return (2 / Math.sqrt(Math.PI)) * sum;
}
