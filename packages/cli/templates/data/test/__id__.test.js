import assert from 'node:assert/strict';
import { test } from 'node:test';

import { checkFile } from '@attune/core';
import { Rng } from '@attune/engine';

import plugin, { id, kind, source } from '../dist/index.js';

const rng = Rng.of(1);
const size = 8;

test('equal ids give equal bytes, in whatever batch', () => {
  const data = source({ size });
  const together = data.batch([3, 5], rng).pixels;
  const alone = data.batch([5], rng).pixels;
  assert.deepEqual(together.shape, [2, 3, size, size]);
  assert.deepEqual(together.data.slice(alone.data.length), alone.data);
  assert.notDeepEqual(together.data.slice(0, alone.data.length), alone.data);
});

test('values are finite and in range', () => {
  const { pixels } = source({ size }).batch([0, 1, 2], rng);
  assert.ok(pixels.data.every((value) => Math.abs(value) <= 1));
});

test('an unknown option is answered with the nearest', () => {
  assert.throws(() => checkFile(kind.options, { sise: 2 }, id), /did you mean "size"/);
});

test('contributes what package.json declares', () => {
  assert.deepEqual(Object.keys(plugin.contributes.data), [id]);
});
