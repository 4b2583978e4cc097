import { mul, reshape, type Shape, type Tensor } from '../../src/index.ts';
import * as ops from '../../src/ops/matmul.ts';
import { type Case, frozen, type In, type Rows } from './case.ts';
import { as, type Grid, matmul, permuted, zip } from './reference.ts';

const { accumulate, gemm, linear } = ops;

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
    general(false, true, [1, 5]),
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
