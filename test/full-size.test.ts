/** A full-size stack, traced and never run: what it would hold. `bench/full` runs one. */

import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import {
  compile,
  findPlugins,
  inventory,
  type Model,
  nominalDims,
  openStack,
  PluginLoader,
  StackFile,
  traceNet,
} from '@attune/core';
import { ancestors, OrtRuntime, type WeightEntry, Weights } from '@attune/engine';
import { beforeAll, expect, test } from 'vitest';

import { peakBytes } from '../packages/engine/src/graph/peak.ts';

let model: Model;

/** Stable Diffusion 1.5 with a ControlNet, motion modules and a LoRA; 16-bit weights that nobody reads. */
beforeAll(async () => {
  const folder = mkdtempSync(join(tmpdir(), 'full-size-'));
  mkdirSync(join(folder, 'unet'));
  writeFileSync(
    join(folder, 'unet', 'config.json'),
    JSON.stringify({ _class_name: 'UNet2DConditionModel', cross_attention_dim: 768 }),
  );
  const adapters = [
    { use: 'edit', cross_attention_dim: 768 },
    { use: 'video' },
    { name: 'look', use: 'lora', rank: 16, train: true },
  ];
  const bare = await openStack(
    StackFile.parse({ backbone: folder, adapters }),
    folder,
    new PluginLoader(findPlugins('packages/cli')),
    { fresh: true },
  );
  const entries = [...inventory(bare, nominalDims).params.values()].map(
    ({ name, shape }): [string, WeightEntry] => [
      name,
      { name, shape, dtype: 'f16', source: undefined, load: () => expect.unreachable() },
    ],
  );
  model = { ...bare, weights: Weights.fromEntries(entries) };
});

const dims = { B: 1, F: 2, H: 64, W: 64, L: 77 };

test.each([2, 16])('%d frames of 512² hold 256 MB of scores at most', (F) => {
  const { traced } = traceNet(model, { net: 'unet', dims: { ...dims, F } });
  const held = ancestors(Object.values(traced.outputs)).flatMap(({ op, size }) =>
    op.name === 'softmax' ? [8 * size] : [],
  );
  expect(Math.max(...held)).toBeLessThanOrEqual(256e6);
  // Each frame has 1 GiB of them in each of the seven blocks at full resolution.
  expect(held.reduce((sum, own) => sum + own, 0)).toBeGreaterThan(F * 7 * 2 ** 30);
});

test('a step of two frames is cut into segments far below 4 GB, and their sessions are let go', () => {
  const { options, segments } = compile(
    model,
    { net: 'unet', dims },
    { runtime: new OrtRuntime({ threads: 1 }) },
  );
  expect(options).toMatchObject({ profile: 'mapped', segments: 'marks', keep: false });
  const held = segments.map(({ outputs, crossing }) =>
    peakBytes(outputs, new Set(crossing), () => true),
  );
  expect(Math.max(...held)).toBeLessThan(1.2e9);
  expect(held.reduce((sum, own) => sum + own, 0)).toBeGreaterThan(6e9);
});
