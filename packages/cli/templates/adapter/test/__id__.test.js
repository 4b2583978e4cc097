import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { checkFile } from '@attune/core';
import { checkKind, describeAdapter } from '@attune/core/testing';
import { f32, Weights } from '@attune/engine';

import plugin, { adapter, id, kind } from '../dist/index.js';

describeAdapter(id, (given) => adapter({ name: 'probe', scale: 2, ...given }), { describe, test });

test('heeds what a stack entry says', async () => {
  const broken = (await checkKind(kind, { scale: 0.5 })).filter(({ ok }) => !ok);
  assert.deepEqual(broken, []);
});

test('knows its own files and no others', () => {
  const file = (name) => ({
    path: 'file',
    metadata: {},
    weights: Weights.fromArrays({ [name]: f32([1], [1]) }),
  });
  assert.equal(kind.detect(file('unet.mid_block.gain'))?.evidence, 'unet.mid_block.gain');
  assert.equal(kind.detect(file('unet.mid_block.lora_A.weight')), undefined);
});

test('an unknown option is answered with the nearest', () => {
  assert.throws(() => checkFile(kind.options, { scales: 2 }, id), /did you mean "scale"/);
});

test('contributes what package.json declares', () => {
  assert.deepEqual(Object.keys(plugin.contributes.adapters), [id]);
});
