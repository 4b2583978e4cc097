/** 8-bit floats against what PyTorch reads of all their codes. */

import { expect, test } from 'vitest';

import { toF32 } from '../../src/runtime/array.ts';
import { Weights } from '../../src/weights/store.ts';
import { rows } from '../../src/weights/view.ts';

const fixtures = 'test/parity/fixtures/checkpoints';
const file = Weights.fromFile(`${fixtures}/eights.safetensors`);
const truth = Weights.fromFile(`${fixtures}/eights.f16.safetensors`);

test.each(['e4m3', 'e5m2'])('all 256 codes of %s', (name) => {
  const got = file.entry(name);
  expect([got.dtype, got.shape]).toEqual(['f16', [256]]);
  const [values, known] = [got, truth.entry(name)].map((one) => toF32(one.load()).data);
  expect(values).toEqual(known);
  // NaN equals NaN there, and only 2 or 6 codes are that.
  expect(values.filter(Number.isNaN).length).toBe(name === 'e4m3' ? 2 : 6);
});

test('such bytes cannot be mapped as they lie, but their file is known', () => {
  const entry = rows(file.entry('e5m2'), 4, 8);
  expect([entry.source, entry.origin]).toEqual([
    undefined,
    expect.stringMatching(/eights\.safetensors$/),
  ]);
  expect(entry.load().data).toEqual(truth.entry('e5m2').load().data.subarray(4, 8));
});
