/** Misfits are found when a graph is built, with the op and the numbers in the message. */

import { describe, expect, test } from 'vitest';

import {
  accumulate,
  add,
  attention,
  broadcast,
  cast,
  concat,
  conv2d,
  expand,
  gather,
  gemm,
  groupNorm,
  input,
  linear,
  matmul,
  mul,
  pad,
  reshape,
  slice,
  softmax,
  split,
  sum,
  type Tensor,
  transpose,
  where,
} from '../../src/index.ts';

const of = (...shape: readonly number[]): Tensor => input('x', shape);
const ids = input('ids', [2], { dtype: 'i64' });

test('broadcasting follows NumPy', () => {
  expect(broadcast('op', [2, 1, 3], [4, 1])).toEqual([2, 4, 3]);
  expect(broadcast('op', [], [2])).toEqual([2]);
  expect(broadcast('op', [1], [0])).toEqual([0]);
});

const misfits: Readonly<Record<string, readonly [() => unknown, string]>> = {
  add: [() => add(of(2, 3), of(2)), 'add: [2,3] and [2] do not broadcast.'],
  'add of two types': [() => add(ids, of(2)), 'add: i64 and f32 do not mix; cast one of them.'],
  'an integer and a number': [() => mul(ids, 2), 'mul: i64 and f32 do not mix'],
  'where of two types': [
    () => where(cast(ids, 'bool'), of(2), ids),
    'where: f32 and i64 do not mix',
  ],
  'where without a bool': [() => where(of(2), of(2), of(2)), 'where: f32 is no bool'],
  matmul: [() => matmul(of(2, 3), of(4, 5)), 'matmul: [2,3] and [4,5] do not multiply.'],
  'matmul of a vector': [() => matmul(of(3), of(3, 5)), 'matmul: [3] and [3,5] do not multiply.'],
  'matmul batches': [
    () => matmul(of(2, 3, 4), of(3, 4, 5)),
    'matmul: [2] and [3] do not broadcast',
  ],
  gemm: [() => gemm(of(2, 3), of(4, 5)), 'gemm: [2,3] and [4,5] do not multiply'],
  'gemm of a vector': [() => gemm(of(3), of(3, 5)), 'gemm: [3] and [3,5] do not multiply'],
  'gemm addend': [
    () => gemm(of(2, 3), of(3, 4), { c: of(2, 2, 4) }),
    'gemm: [2,4] and [2,2,4] do not add.',
  ],
  linear: [() => linear(of(2, 3), of(5, 4)), 'gemm: [2,3] and [5,4] do not multiply'],
  accumulate: [() => accumulate(of(2, 3), linear(of(2, 3), of(4, 3))), '[2,3] and [2,4]'],
  conv2d: [() => conv2d(of(1, 3, 4, 4), of(2, 4, 3, 3)), 'conv2d: [1,3,4,4] and [2,4,3,3]'],
  'conv2d bias': [
    () => conv2d(of(1, 3, 4, 4), of(2, 3, 3, 3), of(3)),
    'conv2d: [2,3,3,3] and [3] do not add.',
  ],
  'conv2d of a small image': [
    () => conv2d(of(1, 3, 2, 4), of(2, 3, 3, 3)),
    'conv2d: [1,3,2,4] and [2,3,3,3] leave no pixel.',
  ],
  reshape: [() => reshape(of(2, 3), [4, -1]), 'reshape: [2,3] and [4,-1] hold different numbers'],
  'reshape with two unknowns': [() => reshape(of(2, 3), [-1, -1]), 'reshape: [2,3] and [-1,-1]'],
  transpose: [() => transpose(of(2, 3), [0, 0]), 'transpose: [0,0] is no permutation of [2,3].'],
  expand: [() => expand(of(2, 3), [2]), 'expand: [2,3] and [2] do not broadcast.'],
  'expand downwards': [() => expand(of(2, 3), [2, 1]), '[2,1] do not broadcast this way.'],
  sum: [() => sum(of(2, 3), [2]), 'sum: axis 2 is outside a shape [2,3].'],
  softmax: [() => softmax(of(2, 3), -3), 'softmax: axis -3 is outside a shape [2,3].'],
  slice: [() => slice(of(2, 3), 1, 2, 2), 'slice: [2:2:1] of axis 1 of [2,3].'],
  'slice beyond the end': [() => slice(of(2, 3), 1, 1, 4), 'slice: [1:4:1] of axis 1 of [2,3].'],
  split: [() => split(of(2, 4), [2, 3], 1), 'split: [2,3] and [4] have different sums.'],
  'split that leaves a rest': [() => split(of(2, 4), [2, 1], 1), 'split: [2,1] and [4]'],
  pad: [() => pad(of(2, 3), 1, -1, 0), 'pad: -1 and 0 on axis 1 of [2,3].'],
  concat: [() => concat([of(2, 3), of(3, 3)], 1), 'concat on axis 1: [2,3] and [3,3]'],
  'concat of nothing': [() => concat([], 0), 'concat: no tensors.'],
  'concat of two types': [
    () => concat([of(2), ids], 0),
    'concat on axis 0: f32 and i64 do not mix',
  ],
  gather: [() => gather(of(5, 3), of(2)), 'gather: ids are f32, not integers; cast'],
  groupNorm: [() => groupNorm(of(1, 5, 2, 2), 2, of(5), of(5)), 'groupNorm: [1,5,2,2] and [2]'],
  'attention keys': [
    () => attention(of(2, 3, 4), of(2, 5, 3), of(2, 5, 3)),
    'matmul: [2,3,4] and [2,3,5] do not multiply.',
  ],
  'attention values': [
    () => attention(of(2, 3, 4), of(2, 5, 4), of(2, 6, 4)),
    'attention: [2,3,5] and [2,6,4] do not multiply.',
  ],
};

describe('misfits', () => {
  test.each(Object.keys(misfits))('%s', (name) => {
    const [build, message] = misfits[name];
    expect(build).toThrow(message);
    expect(build).toThrow(expect.objectContaining({ name: 'AttuneError' }));
  });
});
