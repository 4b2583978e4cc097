import { add, constant, f32, type Shape, type Tensor } from '../../src/index.ts';
import * as ops from '../../src/ops/normalize.ts';
import { type Case, frozen, lines, type Rows } from './case.ts';
import { as, attention, type Grid, map, normalize, softmax, sumAxis, zip } from './reference.ts';

const means = (x: Grid, axes: readonly number[]): Grid =>
  map(axes.reduce(sumAxis, x), (s) => s / axes.reduce((n, axis) => n * x.shape[axis], 1));

const affine = (x: Grid, w: Grid, b: Grid): Grid => zip((u, s, o) => u * s + o, x, w, b);

const group = (x: Shape, groups: number, eps: number): Case => ({
  in: [x, [x[1]], [x[1]]],
  build: (t, w, b) => ops.groupNorm(t, groups, w, b, eps),
  want: (t, w, b) => {
    const rows = as(t, [x[0], groups, t.data.length / x[0] / groups]);
    const wide = [x[1], ...x.slice(2).map(() => 1)];
    return affine(as(normalize(rows, eps), x), as(w, wide), as(b, wide));
  },
  label: `${groups} groups`,
});

const logSum = (x: Grid, axis: number): Grid => map(sumAxis(map(x, Math.exp), axis), Math.log);

/** An op along one axis, on several axes. */
const along = (
  build: (x: Tensor, axis?: number) => Tensor,
  want: (x: Grid, axis: number) => Grid,
): readonly Case[] =>
  lines(
    [[2, 3, 7], (x) => build(x), (x) => want(x, 2), 'last axis'],
    [[2, 5, 3], (x) => build(x, 1), (x) => want(x, 1), 'axis 1'],
    [[2, 5, 3], (x) => build(x, -3), (x) => want(x, 0), 'axis -3'],
    [[1, 4], (x) => build(x, -1), (x) => want(x, 1), 'one row'],
    [[3, 1], (x) => build(x), (x) => want(x, 1), 'of one value'],
  );

const heads = (q: Shape, k: Shape, v: Shape = k, most?: number): Case => ({
  in: [q, k, v],
  build: (a, b, c) => ops.attention(a, b, c, most === undefined ? {} : { most }),
  want: (a, b, c) => attention(a, b, c, 1 / Math.sqrt(q.at(-1)!)),
  ...(most === undefined ? {} : { label: `at most ${most} bytes of scores` }),
});

/** Hides the last keys of the first query. */
const mask = f32([0, 0, -1e4, -1e4, 0, 0, 0, 0, 0, 0, 0, 0], [3, 4]);

export const normalizeCases: Rows<typeof ops> = {
  mean: lines(
    [[2, 3, 4], (x) => ops.mean(x), (x) => as(means(x, [0, 1, 2]), []), 'of all'],
    [[2, 3, 4], (x) => ops.mean(x, [-1]), (x) => as(means(x, [2]), [2, 3]), 'axis -1'],
    [[2, 3, 4], (x) => ops.mean(x, [0, 2], { keep: true }), (x) => means(x, [0, 2]), 'kept'],
    [[1, 3], (x) => ops.mean(x, [0]), (x) => as(x, [3]), 'one row'],
  ),
  normalize: lines(
    [[2, 3, 6], (x) => ops.normalize(x, 1e-5), (x) => normalize(x, 1e-5), 'instances'],
    [[4, 7], (x) => ops.normalize(x, 1e-5), (x) => normalize(x, 1e-5), 'rows'],
    [[1, 2, 3, 5], (x) => ops.normalize(x, 0.1), (x) => normalize(x, 0.1), 'wide eps'],
    [[8], (x) => ops.normalize(x, 1e-6), (x) => normalize(x, 1e-6), 'one vector'],
  ),
  layerNorm: lines(
    {
      in: [[2, 3, 6], [6], [6]],
      build: (x, w, b) => ops.layerNorm(x, w, b),
      want: (x, w, b) => affine(normalize(x, 1e-5), w, b),
    },
    {
      in: [[1, 5], frozen([5]), frozen([5])],
      build: (x, w, b) => ops.layerNorm(x, w, b, 1e-2),
      want: (x, w, b) => affine(normalize(x, 1e-2), w, b),
      label: 'one row',
    },
  ),
  groupNorm: lines(
    group([2, 6, 4, 5], 3, 1e-5),
    group([1, 4, 3, 2, 3], 2, 1e-6),
    group([3, 8], 2, 1e-5),
    group([1, 4, 3, 3], 4, 1e-5),
    group([2, 3, 2, 2], 1, 1e-5),
  ),
  softmax: along(ops.softmax, softmax),
  logSumExp: lines(...along(ops.logSumExp, logSum), [
    [2, 3],
    (x) => ops.logSumExp(add(x, 100)),
    (x) => map(logSum(x, 1), (y) => y + 100),
    'of large values',
  ]),
  logSoftmax: along(ops.logSoftmax, (x, axis) => map(softmax(x, axis), Math.log)),
  attention: lines(
    heads([2, 3, 5, 4], [2, 3, 7, 4]),
    heads([2, 5, 4], [7, 4]),
    heads([3, 4], [2, 6, 4]),
    heads([2, 3, 4], [2, 5, 4], [2, 5, 3]),
    heads([3, 4], [5, 4], [2, 5, 4]),
    heads([1, 1, 2], [1, 1, 2]),
    // Scores and probabilities of one query: 56 bytes; of one head: 280; of one clip: 840.
    heads([2, 3, 5, 4], [2, 3, 7, 4], [2, 3, 7, 4], 840),
    heads([2, 3, 5, 4], [2, 3, 7, 4], [2, 3, 7, 4], 560),
    heads([2, 3, 5, 4], [2, 3, 7, 4], [2, 3, 7, 4], 120),
    heads([2, 3, 5, 4], [2, 3, 7, 4], [2, 3, 7, 4], 1),
    heads([2, 5, 4], [7, 4], [7, 4], 100),
    heads([3, 4], [2, 6, 4], [2, 6, 4], 100),
    heads([3, 4], [5, 4], [2, 5, 4], 50),
    heads([1, 1, 2], [1, 1, 2], [1, 1, 2], 1),
    {
      in: [
        [2, 3, 4],
        [2, 4, 4],
        [2, 4, 4],
      ],
      build: (q, k, v) => ops.attention(q, k, v, { scale: 0.7, bias: constant(mask) }),
      want: (q, k, v) =>
        attention(q, k, v, 0.7, { shape: mask.shape, data: Float64Array.from(mask.data) }),
      label: 'masked',
    },
    {
      in: [
        [2, 3, 4],
        [2, 5, 4],
        [2, 5, 4],
        [3, 5],
      ],
      build: (q, k, v, bias) => ops.attention(q, k, v, { bias }),
      want: (q, k, v, bias) => attention(q, k, v, 0.5, bias),
      label: 'with a bias of its own',
    },
    {
      in: [
        [2, 3, 4],
        [2, 5, 4],
        [2, 5, 4],
        [3, 5],
      ],
      build: (q, k, v, bias) => ops.attention(q, k, v, { bias, most: 50 }),
      want: (q, k, v, bias) => attention(q, k, v, 0.5, bias),
      label: 'with a bias of its own, query by query',
    },
    {
      in: [
        [2, 2, 3, 4],
        [2, 2, 5, 4],
        [2, 2, 5, 4],
        [2, 1, 1, 5],
      ],
      build: (q, k, v, bias) => ops.attention(q, k, v, { bias, most: 120 }),
      want: (q, k, v, bias) => attention(q, k, v, 0.5, bias),
      label: 'with a bias for each clip, head by head',
    },
    {
      in: [[2, 4, 3]],
      build: (x) => ops.attention(x, x, x),
      want: (x) => attention(x, x, x, 1 / Math.sqrt(3)),
      label: 'of itself',
    },
  ),
};
