/** The distillation whose result is installed, from its last checkpoint but one: the same end again. */

import { cpSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { findPlugins, parseYaml, PluginLoader } from '@attune/core';
import { OrtRuntime, toF32, Weights } from '@attune/engine';
import { DistillRecipe, runDistillation } from '@attune/fdd';
import { expect, test } from 'vitest';
import { stringify } from 'yaml';

const pocket = resolve('packages/pocket');
const stage = join(pocket, 'stages', 'align-6');

test('the last three iterations of align-6', async () => {
  const text = readFileSync(join(stage, 'recipe.yaml'), 'utf8');
  const { keep_best: _, ...recipe } = parseYaml(DistillRecipe, text, 'align-6');
  const run = join(mkdtempSync(join(tmpdir(), 'replay-')), 'run');
  mkdirSync(join(run, 'checkpoints'), { recursive: true });
  writeFileSync(join(run, 'recipe.yaml'), stringify(recipe));
  cpSync(join(stage, 'log.jsonl'), join(run, 'log.jsonl'));
  const checkpoint = join(stage, 'checkpoints', 'step-00000096');
  cpSync(checkpoint, join(run, 'checkpoints', 'step-00000096'), { recursive: true });

  const runtime = new OrtRuntime({ threads: 1 });
  const { state } = await runDistillation(recipe, {
    loader: new PluginLoader(findPlugins('packages/cli')),
    runtime,
    folder: join(pocket, 'recipes'),
    run,
    resume: true,
  });
  await runtime.release();
  expect(state.step).toBe(99);

  const before = Weights.fromFile(join(checkpoint, 'params.safetensors'));
  const update = Weights.fromFile(join(stage, 'update.safetensors'));
  let [product, got, want] = [0, 0, 0];
  for (const [name, values] of Object.entries(state.params)) {
    const from = toF32(before.entry(name).load()).data;
    toF32(update.entry(name).load()).data.forEach((recorded, i) => {
      const again = values[i] - from[i];
      product += again * recorded;
      got += again ** 2;
      want += recorded ** 2;
    });
  }
  expect(want).toBeGreaterThan(0);
  expect(product / Math.sqrt(got * want)).toBeGreaterThanOrEqual(0.999);
}, 600_000);
