import { constant, i64, type Shape, type Tensor } from '../../src/index.ts';
import * as structural from '../../src/ops/structural.ts';
import { lines, near, type Rows } from './case.ts';
import {
  as,
  at,
  type Grid,
  type Index,
  make,
  map,
  padded,
  permuted,
  put,
  sumAxis,
  zip,
} from './reference.ts';

const { argmax, cast, concat, expand, flipKernel, gather, pad, reshape } = structural;
const { scatterAdd, slice, sum, sumTo, swap, transpose, upsample } = structural;

type Ops = Omit<typeof structural, 'onnxType' | 'values' | 'pick' | 'reduction'>;

/** A slice of axis `axis` as an array of its own. */
const cut = (x: Grid, axis: number, start: number, end: number, step = 1): Grid =>
  make(x.shape.with(axis, Math.ceil((end - start) / step)), (index) =>
    at(x, put(index, axis, start + step * index[axis])),
  );

const joined = (axis: number, ...xs: readonly Grid[]): Grid => {
  const length = xs.reduce((n, x) => n + x.shape[axis], 0);
  return make(xs[0].shape.with(axis, length), (index) => {
    let i = index[axis];
    for (const x of xs) {
      if (i < x.shape[axis]) return at(x, put(index, axis, i));
      i -= x.shape[axis];
    }
    return Number.NaN;
  });
};

/** Sums over `axes`, which stay with length 1. */
const sums = (x: Grid, axes: readonly number[]): Grid => axes.reduce(sumAxis, x);

const ids = (data: readonly number[], shape: Shape): Tensor => constant(i64(data, shape));

const rows = (table: Grid, names: readonly number[], shape: Shape): Grid =>
  as(
    make([names.length, ...table.shape.slice(1)], ([i, ...rest]: Index) =>
      at(table, [names[i], ...rest]),
    ),
    [...shape, ...table.shape.slice(1)],
  );

const scattered = (names: readonly number[], x: Grid, count: number): Grid =>
  make([count, ...x.shape.slice(1)], ([i, ...rest]: Index) =>
    names.reduce((s, name, k) => (name === i ? s + at(x, [k, ...rest]) : s), 0),
  );

export const structuralCases: Rows<Ops> = {
  reshape: lines(
    [[2, 3, 4], (x) => reshape(x, [6, 4]), (x) => as(x, [6, 4]), 'to [6 4]'],
    [[2, 3, 4], (x) => reshape(x, [2, -1]), (x) => as(x, [2, 12]), 'to [2 -1]'],
    [[1], (x) => reshape(x, []), (x) => as(x, []), 'to a scalar'],
    [[2, 3], (x) => reshape(reshape(x, [3, 2]), [6]), (x) => as(x, [6]), 'twice'],
    [[2, 3], (x) => reshape(reshape(x, [3, 2]), [2, 3]), (x) => x, 'and back'],
  ),
  transpose: lines(
    [[2, 3, 4], (x) => transpose(x, [2, 0, 1]), (x) => permuted(x, [2, 0, 1]), '[2 0 1]'],
    [[2, 3, 4], (x) => transpose(x, [0, -1, 1]), (x) => permuted(x, [0, 2, 1]), '[0 -1 1]'],
    [[2, 1, 3, 5], (x) => transpose(x, [3, 1, 0, 2]), (x) => permuted(x, [3, 1, 0, 2]), '4-D'],
    [[2, 3, 4], (x) => transpose(x, [2, 1, 0]), (x) => permuted(x, [2, 1, 0]), 'reversed'],
    [
      [2, 3, 4, 5],
      (x) => transpose(x, [0, 3, 2, 1]),
      (x) => permuted(x, [0, 3, 2, 1]),
      'reversed behind an axis',
    ],
    [[2, 3], (x) => transpose(x, [0, 1]), (x) => x, 'identity'],
  ),
  swap: lines(
    [[2, 3], swap, (x) => permuted(x, [1, 0]), ''],
    [[2, 1, 3, 4], swap, (x) => permuted(x, [0, 1, 3, 2]), ''],
  ),
  expand: lines(
    [[3, 1], (x) => expand(x, [2, 3, 4]), (x) => spread(x, [2, 3, 4]), 'to [2 3 4]'],
    [[], (x) => expand(x, [2, 2]), (x) => spread(x, [2, 2]), 'of a scalar'],
    [[1, 4], (x) => expand(x, [1, 4]), (x) => x, 'to itself'],
  ),
  sum: lines(
    [[2, 3, 4], (x) => sum(x), (x) => as(sums(x, [0, 1, 2]), []), 'of all'],
    [[2, 3, 4], (x) => sum(x, [1]), (x) => as(sums(x, [1]), [2, 4]), 'axis 1'],
    [[2, 3, 4], (x) => sum(x, [-1, 0]), (x) => as(sums(x, [0, 2]), [3]), 'axes -1, 0'],
    [[2, 3, 4], (x) => sum(x, [-2], { keep: true }), (x) => sums(x, [1]), 'axis -2, kept'],
    [[2, 3], (x) => sum(x, []), (x) => x, 'no axis'],
    [[1, 1], (x) => sum(x, [0]), (x) => as(x, [1]), 'one row'],
  ),
  sumTo: lines(
    [[2, 3, 4], (x) => sumTo(x, [3, 1]), (x) => as(sums(x, [0, 2]), [3, 1]), '[3 1]'],
    [[2, 3, 4], (x) => sumTo(x, []), (x) => as(sums(x, [0, 1, 2]), []), 'a scalar'],
    [[1, 3], (x) => sumTo(x, [3]), (x) => as(x, [3]), 'one row'],
    [[2, 1, 3], (x) => sumTo(x, [1, 1, 3]), (x) => sums(x, [0]), '[1 1 3]'],
  ),
  slice: lines(
    [[4, 5], (x) => slice(x, 0, 1, 3), (x) => cut(x, 0, 1, 3), '1:3'],
    [[4, 5], (x) => slice(x, -1, 2), (x) => cut(x, 1, 2, 5), 'last axis, 2:'],
    [[4, 5], (x) => slice(x, 1, -3, -1), (x) => cut(x, 1, 2, 4), '-3:-1'],
    [[2, 9], (x) => slice(x, 1, 1, 8, 3), (x) => cut(x, 1, 1, 8, 3), '1:8:3'],
    [[2, 8], (x) => slice(x, 1, 0, 8, 2), (x) => cut(x, 1, 0, 8, 2), '::2'],
    [[7, 2], (x) => slice(x, 0, 2, 7, 4), (x) => cut(x, 0, 2, 7, 4), '2::4'],
    [[3, 2], (x) => slice(x, 0, 1, 2, 5), (x) => cut(x, 0, 1, 2), '1:2:5'],
    [[3, 2], (x) => slice(x, 0, 0), (x) => x, 'of all'],
  ),
  pad: lines(
    [[2, 3], (x) => pad(x, 1, 2, 1), (x) => framed(x, 1, 2, 1), '2 before, 1 after'],
    [[2, 3], (x) => pad(x, -2, 0, 3), (x) => framed(x, 0, 0, 3), 'axis -2'],
    [[2, 3], (x) => pad(x, 0, 0, 0), (x) => x, 'by nothing'],
  ),
  concat: lines(
    {
      in: [
        [2, 3],
        [2, 1],
        [2, 4],
      ],
      build: (...xs) => concat(xs, 1),
      want: (...xs) => joined(1, ...xs),
    },
    {
      in: [
        [2, 3, 2],
        [1, 3, 2],
      ],
      build: (a, b) => concat([a, b, a], -3),
      want: (a, b) => joined(0, a, b, a),
      label: 'twice the same',
    },
    [[2, 2], (x) => concat([x], 0), (x) => x, 'of one'],
  ),
  cast: lines(
    [[2, 3], (x) => cast(cast(x, 'f64'), 'f32'), (x) => x, 'to f64 and back'],
    {
      in: [{ shape: [2, 3], draw: near(0.5) }],
      build: (x) => cast(cast(x, 'i64'), 'f32'),
      want: (x) => map(x, Math.trunc),
      gradient: 'none',
      label: 'to i64 and back',
    },
    {
      in: [{ shape: [4], draw: (rng) => rng.int(7) / 4 }],
      build: (x) => cast(cast(x, 'f16'), 'f32'),
      want: (x) => x,
      label: 'to f16 and back',
      eps: 1,
    },
    [[5], (x) => cast(x, 'f32'), (x) => x, 'to its own type'],
  ),
  gather: lines(
    [[5, 3], (x) => gather(x, ids([4, 0, 4], [3])), (x) => rows(x, [4, 0, 4], [3]), '[3]'],
    [
      [4, 2, 3],
      (x) => gather(x, ids([1, 1, 0, 3], [2, 2])),
      (x) => rows(x, [1, 1, 0, 3], [2, 2]),
      '[2 2] of a 3-D table',
    ],
    [[3], (x) => gather(x, ids([2], [])), (x) => as(rows(x, [2], []), []), 'one entry'],
  ),
  scatterAdd: lines(
    [
      [3, 2],
      (x) => scatterAdd(ids([1, 3, 1], [3]), x, 5),
      (x) => scattered([1, 3, 1], x, 5),
      'into 5 rows',
    ],
    [
      [2, 2, 3],
      (x) => scatterAdd(ids([0, 2, 2, 2], [2, 2]), x, 3),
      (x) => scattered([0, 2, 2, 2], as(x, [4, 3]), 3),
      'by a matrix of ids',
    ],
  ),
  upsample: lines(
    [[1, 2, 3, 2], (x) => upsample(x, 2), (x) => enlarged(x, 2), '×2'],
    [[2, 1, 1, 3], (x) => upsample(x, 3), (x) => enlarged(x, 3), '×3'],
  ),
  argmax: lines(
    [[3, 4], (x) => argmax(x, -1), (x) => largest(x, 1), 'axis -1', 'raises'],
    [[3, 4, 2], (x) => argmax(x, 1), (x) => largest(x, 1), 'axis 1', 'raises'],
  ),
  flipKernel: lines(
    [[4, 3, 3, 2], flipKernel, flipped, ''],
    [[2, 5, 1, 1], flipKernel, flipped, ''],
    [[1, 1, 1, 3], flipKernel, flipped, ''],
  ),
};

function spread(x: Grid, shape: Shape): Grid {
  return zip(
    (a) => a,
    x,
    make(shape, () => 0),
  );
}

function framed(x: Grid, axis: number, before: number, after: number): Grid {
  return make(x.shape.with(axis, before + x.shape[axis] + after), (index) =>
    padded(x, put(index, axis, index[axis] - before)),
  );
}

function enlarged(x: Grid, factor: number): Grid {
  const [n, c, h, w] = x.shape;
  return make([n, c, h * factor, w * factor], ([i, j, y, z]) =>
    at(x, [i, j, Math.floor(y / factor), Math.floor(z / factor)]),
  );
}

function largest(x: Grid, axis: number): Grid {
  const shape = x.shape.toSpliced(axis, 1);
  return make(shape, (index) => {
    const line = Array.from({ length: x.shape[axis] }, (_, i) =>
      at(x, index.toSpliced(axis, 0, i)),
    );
    return line.indexOf(Math.max(...line));
  });
}

function flipped(w: Grid): Grid {
  const [o, i, h, k] = w.shape;
  return make([i, o, h, k], ([b, a, y, z]) => at(w, [a, b, h - 1 - y, k - 1 - z]));
}
