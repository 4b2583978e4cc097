/** Every row of the case table: values against float64, both profiles, gradients against differences. */

import { describe, expect, test } from 'vitest';

import {
  type F32Array,
  f32,
  grad,
  input,
  type NDArray,
  param,
  Rng,
  type Tensor,
  Weights,
} from '../../src/index.ts';
import { checkGrad, evaluate, relativeError, testRuntime } from '../../src/testing/index.ts';
import { type Case, drawn, gridOf, type In, inputOf, titleOf } from './case.ts';
import { cases } from './cases.ts';

const prepacked = testRuntime();
const mapped = testRuntime({ profile: 'mapped' });

const valueLimit = 1e-5;
const gradientLimit = 2e-3;
const seeds = [1, 2, 3];

const leaf = ({ shape, frozen }: In, i: number): Tensor =>
  frozen ? param(`p${i}`, shape) : input(`p${i}`, shape);

/** A row as a graph: its inputs, its frozen parameters, and values for both. */
function trace(row: Case, seed = 1) {
  const given: readonly In[] = row.in.map(inputOf);
  const rng = Rng.of(seed);
  const arrays = given.map((spec, i) => drawn(spec, rng.fork(i)));
  const leaves = given.map(leaf);
  const named = (frozen: boolean): Record<string, F32Array> =>
    Object.fromEntries(
      arrays.flatMap((array, i) => (!given[i].frozen === frozen ? [] : [[`p${i}`, array]])),
    );
  return {
    given,
    arrays,
    y: row.build(...leaves),
    xs: leaves.filter((_, i) => !given[i].frozen),
    feeds: named(false),
    weights: Weights.fromArrays(named(true)),
  };
}

const alike = (got: NDArray, want: NDArray): void => {
  expect(got.shape).toEqual(want.shape);
  expect(got.dtype).toBe(want.dtype);
  expect(relativeError(got, want)).toBeLessThan(valueLimit);
};

async function checkValues(row: Case): Promise<void> {
  const { arrays, y, feeds, weights } = trace(row);
  const fast = await evaluate({ y }, feeds, { weights, runtime: prepacked });
  const big = await evaluate({ y }, feeds, { weights, runtime: mapped });
  expect(fast.y.shape).toEqual(y.shape);
  expect(fast.y.dtype).toBe(y.dtype);
  alike(big.y, fast.y);
  const want = row.want(...arrays.map(gridOf));
  expect(fast.y.shape).toEqual(want.shape);
  expect(relativeError(fast.y, f32(Float32Array.from(want.data), want.shape))).toBeLessThan(
    valueLimit,
  );
}

async function checkGradients(row: Case): Promise<void> {
  const { y, xs, feeds, weights } = trace(row);
  const seed = input('dy', y.shape);
  const found = grad([y], [seed], xs);
  if (row.gradient === 'none') {
    expect(found).toEqual(xs.map(() => null));
    return;
  }
  const grads = Object.fromEntries(found.flatMap((g, i) => (g ? [[`g${i}`, g]] : [])));
  const all = { ...feeds, dy: Rng.of(9).normals(y.shape) };
  const fast = await evaluate({ y, ...grads }, all, { weights, runtime: prepacked });
  const big = await evaluate({ y, ...grads }, all, { weights, runtime: mapped });
  for (const name of Object.keys(fast)) alike(big[name], fast[name]);
  expect(Object.keys(grads).length).toBe(xs.length);
  for (const s of seeds) await checkDirection(row, s);
}

async function checkDirection(row: Case, seed: number): Promise<void> {
  const { given, weights } = trace(row, seed);
  const free = given.filter(({ frozen }) => !frozen);
  const build = (...xs: Tensor[]): Tensor => {
    const rest = xs[Symbol.iterator]();
    return row.build(
      ...given.map(({ shape, frozen }, i) =>
        frozen ? param(`p${i}`, shape) : (rest.next().value as Tensor),
      ),
    );
  };
  const { relative } = await checkGrad(
    build,
    free.map(({ shape }) => shape),
    {
      seed,
      weights,
      runtime: prepacked,
      draw: (rng, _, i) => drawn(free[i], rng),
      eps: row.eps ?? 3e-3,
    },
  );
  expect(relative).toBeLessThan(gradientLimit);
}

const table = Object.entries(cases).map(([name, rows]) => ({ name, rows }));

test('every op has a row', () => {
  expect(table.filter(({ rows }) => rows.length === 0)).toEqual([]);
});

describe.each(table)('$name', ({ rows }) => {
  test.each(rows.map((row) => ({ title: titleOf(row), row })))('$title', async ({ row }) => {
    await checkValues(row);
    if (row.gradient === 'raises') {
      const { y, xs } = trace(row);
      expect(() => grad([y], [input('dy', y.shape)], xs)).toThrow(
        expect.objectContaining({ code: 'NOT_DIFFERENTIABLE' }),
      );
    } else await checkGradients(row);
  });
});
