import { concat, mul, reshape, type Shape, type Tensor } from '../../src/index.ts';
import * as ops from '../../src/ops/matmul.ts';
import { type Case, frozen, type In, lines, type Rows } from './case.ts';
import { as, at, type Grid, make, matmul, permuted, zip } from './reference.ts';

const { accumulate, gemm, linear, split } = ops;

const product = (a: Shape, b: Shape): Case => ({ in: [a, b], build: ops.matmul, want: matmul });

const turned = (x: Grid): Grid => permuted(x, [1, 0]);
const plus = (a: Grid, b: Grid): Grid => zip((u, v) => u + v, a, b);

function general(transA: boolean, transB: boolean, c?: Shape): Case {
  return {
    in: [transA ? [4, 3] : [3, 4], transB ? [5, 4] : [4, 5], ...(c ? [c] : [])],
    build: (a, b, addend) =>
      gemm(a, b, { transA, transB, ...(addend === undefined ? {} : { c: addend }) }),
    want: (a, b, addend) => {
      const y = matmul(transA ? turned(a) : a, transB ? turned(b) : b);
      return addend === undefined ? y : plus(y, addend);
    },
    label: `${transA ? 'Aᵀ' : 'A'} ${transB ? 'Bᵀ' : 'B'}`,
  };
}

const affine = (x: Grid, w: Grid, b?: Grid): Grid => {
  const flat = as(x, [x.data.length / x.shape.at(-1)!, x.shape.at(-1)!]);
  const y = matmul(flat, turned(w));
  return as(b ? plus(y, b) : y, [...x.shape.slice(0, -1), w.shape[0]]);
};

const layer = (...given: readonly (Shape | In)[]): Case => ({
  in: given,
  build: linear,
  want: affine,
});

/** value + gate · (x A) B, with A [k, r] and B [r, n]: what a low-rank adapter adds. */
const lowRank = (value: Shape, gate: Shape | undefined): Case => ({
  in: [value, [6, 4], [2, 4], [3, 2], ...(gate ? [gate] : [])],
  build: (v, x, a, b, g?: Tensor) => accumulate(v, reshape(linear(linear(x, a), b), value), g),
  want: (v, x, a, b, g) => {
    const delta = as(affine(affine(x, a), b), value);
    return g === undefined ? plus(v, delta) : zip((u, d, s) => u + d * s, v, delta, g);
  },
  label: 'low-rank',
});

/** Rows [from, from + length) of one axis. */
const cut = (x: Grid, axis: number, from: number, length: number): Grid =>
  make(x.shape.with(axis, length), (index) => at(x, index.with(axis, index[axis] + from)));

/** The product of both halves of the columns, as a gated unit reads them: [… 2 n] → [… n]. */
const gated = (y: Tensor): Tensor => {
  const half = y.dim(-1) / 2;
  const [a, b] = split(y, [half, half], -1);
  return mul(a, b);
};
const gatedGrid = (y: Grid): Grid => {
  const axis = y.shape.length - 1;
  const half = y.shape[axis] / 2;
  return zip((a, b) => a * b, cut(y, axis, 0, half), cut(y, axis, half, half));
};

export const matmulCases: Rows<typeof ops> = {
  matmul: [
    product([2, 3], [3, 4]),
    product([1, 5], [5, 1]),
    product([2, 3, 4, 5], [3, 5, 6]),
    product([4, 5], [2, 5, 3]),
    product([2, 1, 3, 4], [5, 4, 2]),
    product([2, 3, 1, 4], [2, 3, 4, 1]),
    { in: [[3, 3]], build: (x) => ops.matmul(x, x), want: (x) => matmul(x, x), label: 'squared' },
  ],
  gemm: [
    general(false, false),
    general(true, false),
    general(false, true),
    general(true, true),
    general(false, true, [5]),
    general(true, false, [3, 1]),
    general(false, false, []),
    general(true, true, [3, 5]),
    {
      in: [
        [4, 5],
        [4, 3],
      ],
      build: (a, b) => gemm(a, b, { transA: true }),
      want: (a, b) => matmul(turned(a), b),
      label: 'Aᵀ B, more rows than columns',
    },
    general(false, true, [1, 5]),
  ],
  transposed: [
    {
      in: [
        [2, 3, 5],
        [2, 3, 4],
      ],
      build: ops.transposed,
      want: (a, b) => matmul(permuted(a, [0, 2, 1]), b),
      label: 'the larger first',
    },
    {
      in: [
        [3, 2],
        [3, 4],
      ],
      build: ops.transposed,
      want: (a, b) => matmul(turned(a), b),
      label: 'the larger last',
    },
  ],
  split: [
    ...lines(
      [
        [2, 6],
        (x) => concat(split(x, [1, 2, 3], -1).toReversed(), -1),
        (x) => make([2, 6], ([i, j]) => at(x, [i, j < 3 ? j + 3 : j < 5 ? j - 2 : 0])),
        'reversed',
      ],
      [[4, 3], (x) => split(x, [2, 2], 0)[1], (x) => cut(x, 0, 2, 2), 'one part read'],
    ),
    {
      in: [[2, 3, 5], [4, 5], [4]],
      build: (x, w, b) => gated(linear(x, w, b)),
      want: (x, w, b) => gatedGrid(affine(x, w, b)),
      label: 'columns of a product',
    },
    {
      in: [[3, 5], frozen([4, 5]), frozen([4])],
      build: (x, w, b) => gated(linear(x, w, b)),
      want: (x, w, b) => gatedGrid(affine(x, w, b)),
      label: 'columns of a frozen product',
    },
    {
      in: [[3, 5], [4, 5], [4], [2, 5], [4, 2], []],
      build: (x, w, b, down, up, g) =>
        gated(accumulate(linear(x, w, b), linear(linear(x, down), up), g)),
      want: (x, w, b, down, up, g) =>
        gatedGrid(zip((v, d, s) => v + d * s, affine(x, w, b), affine(affine(x, down), up), g)),
      label: 'columns of a product and a low-rank delta',
    },
    {
      in: [
        [3, 5],
        [5, 4],
        [3, 1],
      ],
      build: (a, b, c) => gated(gemm(a, b, { c })),
      want: (a, b, c) => gatedGrid(plus(matmul(a, b), c)),
      label: 'an addend of one column',
    },
    {
      in: [
        [2, 5],
        [6, 5],
      ],
      build: (x, w) => gated(reshape(linear(x, w), [3, 4])),
      want: (x, w) => gatedGrid(as(affine(x, w), [3, 4])),
      label: 'a product under another shape',
    },
  ],
  linear: [
    layer([2, 3, 5], [4, 5], [4]),
    layer([6, 5], [4, 5]),
    layer([5], [3, 5], [3]),
    layer([1, 5], [1, 5], [1]),
    layer([2, 3, 5], frozen([4, 5]), frozen([4])),
  ],
  accumulate: [
    lowRank([6, 3], undefined),
    lowRank([2, 3, 3], []),
    lowRank([2, 3, 3], [1, 1, 1]),
    lowRank([2, 3, 3], [2, 1, 1]),
    {
      in: [[4, 3], [4, 3], []],
      build: (v, d, g) => accumulate(v, mul(d, d), g),
      want: (v, d, g) => zip((u, w, s) => u + w * w * s, v, d, g),
      label: 'no product',
    },
    {
      in: [[2, 3], [2, 4], [3, 4], [3]],
      build: (v, x, w, b) => accumulate(v, linear(x, w, b)),
      want: (v, x, w, b) => plus(v, affine(x, w, b)),
      label: 'a product with an addend',
    },
    {
      in: [
        [3, 1],
        [1, 4],
        [3, 4],
      ],
      build: (v, x, w) => accumulate(v, linear(x, w)),
      want: (v, x, w) => plus(v, affine(x, w)),
      label: 'as many values in another shape',
    },
    {
      in: [[2, 3], [2, 4], [3, 4], [], []],
      build: (v, x, w, g, h) => accumulate(accumulate(v, linear(x, w), g), linear(x, w), h),
      want: (v, x, w, g, h) => zip((u, d, s, t) => u + d * (s + t), v, affine(x, w), g, h),
      label: 'two in turn',
    },
    {
      in: [
        [2, 3],
        [2, 4],
        [3, 4],
      ],
      build: (v, x, w) => mul(accumulate(v, linear(x, w)), linear(x, w)),
      want: (v, x, w) => {
        const delta = affine(x, w);
        return zip((u, d) => (u + d) * d, v, delta);
      },
      label: 'a delta read twice',
    },
  ],
};
