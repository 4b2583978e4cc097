/** Truncated singular value decompositions: exact where the rank suffices, best where it does not. */

import { Rng } from '@attune/engine';
import { expect, test } from 'vitest';

import { lowRank, type Matrix } from '../src/low-rank.ts';

const random = (rows: number, columns: number, seed: number): Matrix => ({
  rows,
  columns,
  data: Float64Array.from(Rng.of(seed).normals([rows, columns]).data),
});

function times(a: Matrix, b: Matrix): Matrix {
  const data = Float64Array.from({ length: a.rows * b.columns }, (_, at) => {
    const [i, j] = [Math.floor(at / b.columns), at % b.columns];
    let sum = 0;
    for (let k = 0; k < a.columns; k++)
      sum += a.data[i * a.columns + k] * b.data[k * b.columns + j];
    return sum;
  });
  return { rows: a.rows, columns: b.columns, data };
}

const distance = (a: Matrix, b: Matrix): number =>
  Math.sqrt(a.data.reduce((sum, x, i) => sum + (x - b.data[i]) ** 2, 0)) / Math.hypot(...b.data);

test.each([
  [20, 30, 3],
  [40, 12, 5],
  [7, 7, 7],
  [1, 9, 1],
])('a matrix %i × %i of rank %i comes back', (rows, columns, rank) => {
  const m = times(random(rows, rank, 1), random(rank, columns, 2));
  const { up, down, error } = lowRank(m, rank);
  expect([up.columns, down.rows]).toEqual([rank, rank]);
  expect(error).toBeLessThan(1e-10);
  expect(distance(times(up, down), m)).toBeLessThan(1e-10);
});

test('the error is what the dropped singular values weigh', () => {
  // Orthonormal factors with the singular values 8, 4, 2, 1: rank 2 leaves √5 of √85.
  const half = Math.SQRT1_2;
  const q: Matrix = {
    rows: 4,
    columns: 4,
    data: Float64Array.of(half, half, 0, 0, half, -half, 0, 0, 0, 0, half, half, 0, 0, half, -half),
  };
  const values: Matrix = { rows: 4, columns: 4, data: new Float64Array(16) };
  [8, 4, 2, 1].forEach((value, i) => (values.data[i * 4 + i] = value));
  const m = times(times(q, values), q);
  expect(lowRank(m, 2).error).toBeCloseTo(Math.sqrt(5 / 85), 10);
  expect(lowRank(m, 4).error).toBeLessThan(1e-10);
});

test('a full matrix at full rank, and nothing at all', () => {
  expect(lowRank(random(16, 24, 3), 64).error).toBeLessThan(1e-10);
  const zero: Matrix = { rows: 3, columns: 4, data: new Float64Array(12) };
  const { up, down, error } = lowRank(zero, 2);
  expect([error, ...up.data, ...down.data].every((value) => value === 0)).toBe(true);
});
