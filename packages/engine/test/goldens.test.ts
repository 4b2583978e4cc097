/** PyTorch's operators, values and gradients, from test/parity/fixtures/ops.safetensors. */

import { join } from 'node:path';

import { expect, test } from 'vitest';

import { grad, input, type NDArray, openSafetensors, type Tensor } from '../src/index.ts';
import { ops } from '../src/ops/index.ts';
import { evaluate, relativeError, testRuntime } from '../src/testing/index.ts';
import { called, formulas, type Given } from './formulas.ts';

const file = openSafetensors(
  join(import.meta.dirname, '../../../test/parity/fixtures/ops.safetensors'),
);
const names = Object.keys(JSON.parse(file.metadata.cases) as object);
const runtime = testRuntime();

/** The tensors of a case, by the names that follow `<case>.`. */
function load(name: string): Record<string, NDArray> {
  const own = [...file.tensors.keys()].filter((key) => key.startsWith(`${name}.`));
  return Object.fromEntries(own.map((key) => [key.slice(name.length + 1), file.read(key)]));
}

/** What a case feeds, as inputs of a graph. */
function givenOf(tensors: Readonly<Record<string, NDArray>>): Record<string, Tensor> {
  const keys = ['x', 'w', 'b', 'q', 'k', 'v', 'mask', 'ids'].filter((key) => tensors[key]);
  return Object.fromEntries(
    keys.map((key) => [key, input(key, tensors[key].shape, { dtype: tensors[key].dtype })]),
  );
}

test('every case of the fixture has a formula', () => {
  expect(Object.keys(formulas).toSorted()).toEqual(names.toSorted());
});

test('every op of the registry is called by a formula', () => {
  called.clear();
  for (const name of names) formulas[name](givenOf(load(name)) as unknown as Given);
  expect(Object.keys(ops).filter((name) => !called.has(name))).toEqual([]);
});

test.each(names)('%s', async (name) => {
  const tensors = load(name);
  const given = givenOf(tensors);
  const y = formulas[name](given as unknown as Given);
  expect({ shape: y.shape, dtype: y.dtype }).toEqual({
    shape: tensors.y.shape,
    dtype: tensors.y.dtype,
  });

  // A case without a cotangent has values alone: integers, and what is flat almost everywhere.
  const wrt = tensors.dy ? Object.keys(given).filter((key) => given[key].dtype === 'f32') : [];
  const found = tensors.dy
    ? grad(
        [y],
        [input('dy', y.shape)],
        wrt.map((key) => given[key]),
      )
    : [];
  const grads = Object.fromEntries(found.flatMap((g, i) => (g ? [[`d${wrt[i]}`, g]] : [])));
  const results = await evaluate({ y, ...grads }, tensors, { runtime });
  // what the fixture holds is compared, all of it
  const wanted = Object.keys(tensors).filter((key) => key === 'y' || /^d[^y]/.test(key));
  expect(Object.keys(results).toSorted()).toEqual(wanted.toSorted());
  for (const [key, got] of Object.entries(results))
    expect({ key, error: relativeError(got, tensors[key]) }).toEqual({
      key,
      error: expect.toSatisfy((error: number) => error < 2e-5),
    });
});
