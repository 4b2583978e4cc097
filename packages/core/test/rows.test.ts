import { f32, input, type Tensor } from '@attune/engine';
import { evaluate } from '@attune/engine/testing';
import { describe, expect, test } from 'vitest';

import { addRows, lift, meet } from '../src/nn/rows.ts';

const rows = { B: 2, F: 3 };

const feed = (count: number) =>
  f32(
    Array.from({ length: count }, (_, i) => i),
    [count, 1],
  );

/** The rows of a graph of one-channel rows, `x` and `y` numbered from 0. */
async function valuesOf(make: (x: Tensor, y: Tensor) => Tensor, x: number, y: number) {
  const out = make(input('x', [x, 1]), input('y', [y, 1]));
  const { out: found } = await evaluate({ out }, { x: feed(x), y: feed(y) });
  return [...(found.data as Float32Array)];
}

describe('lift', () => {
  test.each([
    [1, 6, [0, 0, 0, 0, 0, 0]],
    [1, 2, [0, 0]],
    [2, 6, [0, 0, 0, 1, 1, 1]],
    [6, 6, [0, 1, 2, 3, 4, 5]],
  ])('%d rows as %d', async (own, wanted, expected) => {
    expect(await valuesOf((x) => lift(x, wanted, rows), own, 1)).toEqual(expected);
  });

  test.each([
    [3, 6],
    [6, 2],
    [4, 6],
  ])('%d rows as %d is an error with the numbers', (own, wanted) => {
    expect(() => lift(input('x', [own, 1]), wanted, rows)).toThrow(
      `A value of ${own} rows cannot be used at ${wanted} rows (clips 2, frames 3).`,
    );
  });
});

describe('two values meet', () => {
  test.each([
    [1, 2, 2],
    [2, 1, 2],
    [2, 6, 6],
    [6, 2, 6],
    [6, 1, 6],
  ])('%d and %d rows at %d', (a, b, most) => {
    const met = meet(input('a', [a, 4]), input('b', [b, 4]), rows);
    expect(met.map(({ shape }) => shape)).toEqual([
      [most, 4],
      [most, 4],
    ]);
  });

  test.each([
    [6, 2, [0, 1, 2, 4, 5, 6]],
    [6, 1, [0, 1, 2, 3, 4, 5]],
    [2, 6, [0, 1, 2, 4, 5, 6]],
    [6, 6, [0, 2, 4, 6, 8, 10]],
    [1, 2, [0, 1]],
  ])('addRows of %d and %d', async (a, b, expected) => {
    expect(await valuesOf((x, y) => addRows(x, y, rows), a, b)).toEqual(expected);
  });
});
