import assert from 'node:assert/strict';
import { test } from 'node:test';

import {
  checkFile,
  nominalDims,
  tinyDecoder,
  tinyEncoder,
  TinyVaeConfig,
  traceModel,
} from '@attune/core';
import { constant, f32, grad, Weights } from '@attune/engine';

import plugin, { id, kind, objective, Options } from '../dist/index.js';

const config = TinyVaeConfig.parse({});
const model = {
  nets: { vae_encoder: tinyEncoder(config), vae_decoder: tinyDecoder(config) },
  weights: Weights.fromArrays({}),
  adapters: [],
  train: ['**'],
};

test('the loss is a scalar that depends on every parameter', () => {
  const dims = { ...nominalDims, B: 1, F: 1, H: 16, W: 16 };
  const { traced, trace } = traceModel(model, { dims }, (run) => {
    const { loss } = objective(Options.parse({})).trace(run, dims);
    return { loss };
  });
  assert.deepEqual(traced.outputs.loss.shape, []);
  const params = [...trace.params.values()].map(({ tensor }) => tensor);
  const gradients = grad([traced.outputs.loss], [constant(f32([1], []))], params);
  assert.ok(gradients.length > 10);
  assert.ok(gradients.every((one) => one !== undefined));
});

test('an unknown option is answered with the nearest', () => {
  assert.throws(() => checkFile(kind.options, { wheight: 2 }, id), /did you mean "weight"/);
});

test('contributes what package.json declares', () => {
  assert.deepEqual(Object.keys(plugin.contributes.objectives), [id]);
});
