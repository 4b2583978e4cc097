/** A trained adapter is saved as the file it came from is spelled: loaded again it is the same adapter. */

import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { lora, readLora } from '@attune/adapter-lora';
import {
  compose,
  exportTrained,
  loadModel,
  materialize,
  type Model,
  nominalDims,
  readAdapterFile,
} from '@attune/core';
import { openSafetensors } from '@attune/engine';
import { expect, test } from 'vitest';

import { loraFrom } from './parity/stack.ts';

const fixtures = 'test/parity/fixtures';

/** Saves a model's adapter with its parameters doubled, and returns the file. */
function save(model: Model, name: string): string {
  const trained = Object.fromEntries(
    [...model.weights.names()]
      .filter((key) => key.startsWith(`${name}.`))
      .map((key) => {
        const { data } = model.weights.entry(key).load();
        return [key, Float32Array.from(data as Float32Array, (x) => 2 * x)];
      }),
  );
  const folder = mkdtempSync(join(tmpdir(), 'export-'));
  exportTrained(model, trained, folder, { metadata: { 'attune.step': '7' } });
  return join(folder, `${name}.safetensors`);
}

test.each(['look.safetensors', 'look.kohya.safetensors'])('%s', async (file) => {
  const base = await loadModel(`${fixtures}/unet/pocket`);
  const path = `${fixtures}/compose/pocket/${file}`;
  const first = readLora(readAdapterFile(path), base);
  const model = materialize(compose(base, loraFrom(path, 'look', base)), { dims: nominalDims });
  const saved = save(model, 'look');
  const [before, after] = [openSafetensors(path), openSafetensors(saved)];
  expect([...after.tensors.keys()].toSorted()).toEqual([...before.tensors.keys()].toSorted());
  const { 'attune.trained_with': trainedWith, ...metadata } = after.metadata;
  expect(metadata).toEqual({ ...before.metadata, 'attune.step': '7' });
  expect(JSON.parse(trainedWith)).toEqual({
    num_train_timesteps: 1000,
    beta_schedule: 'scaled_linear',
    beta_start: 0.00085,
    beta_end: 0.012,
    rescale_betas_zero_snr: true,
    prediction_type: 'v_prediction',
  });
  const again = readLora(readAdapterFile(saved), base);
  expect(again.modules).toEqual(first.modules);
  for (const name of first.weights.names()) {
    const [a, b] = [first, again].map(({ weights }) => weights.entry(name).load().data);
    expect(Array.from(b as Float32Array)).toEqual(Array.from(a as Float32Array, (x) => 2 * x));
  }
});

test('a fresh LoRA keeps its rank and alpha', async () => {
  const base = await loadModel(`${fixtures}/unet/pocket`);
  const fresh = lora({ name: 'align', rank: 4, alpha: 2, train: true });
  const saved = save(materialize(compose(base, fresh), { dims: nominalDims }), 'align');
  const { modules } = readLora(readAdapterFile(saved), base);
  expect([...modules.values()].every(({ rank, alpha }) => rank === 4 && alpha === 2)).toBe(true);
  expect(modules.size).toBeGreaterThan(0);
});
