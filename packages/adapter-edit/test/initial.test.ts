/** A fresh edit adapter starts as a copy of the backbone's encoder that changes nothing. */

import { compose, materialize, nominalDims } from '@attune/core';
import { tinyModel, tinyUNet } from '@attune/core/testing';
import { expect, test } from 'vitest';

import plugin, { EditConfig } from '../src/index.ts';

test('weights the backbone has are copied, the others are fresh', () => {
  const model = tinyModel();
  const config = EditConfig.parse({ ...tinyUNet, conditioning_embedding_out_channels: [4, 8] });
  const kind = plugin.contributes.adapters!.edit;
  const adapter = kind.create({ name: 'edit', model }, kind.options.parse(config));
  const { weights } = materialize(compose(model, adapter), { dims: nominalDims });
  const own = [...weights.names()].filter((name) => name.startsWith('edit.'));
  const copied = own.filter((name) => weights.has(`unet.${name.slice(5)}`));
  expect(copied.length).toBeGreaterThan(10);
  for (const name of copied)
    expect(weights.entry(name).load()).toEqual(weights.entry(`unet.${name.slice(5)}`).load());
  const fresh = own.filter((name) => !copied.includes(name));
  expect(fresh.every((name) => name.startsWith('edit.controlnet_'))).toBe(true);
});
