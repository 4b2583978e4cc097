/** Pocket's training stages: every recipe is one, and what an adapter's stage saves opens again as that adapter. */

import { mkdtempSync, readdirSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import {
  findPlugins,
  openStack,
  parseYaml,
  PluginLoader,
  runTraining,
  StackFile,
  TrainRecipe,
} from '@attune/core';
import { OrtRuntime, toF32 } from '@attune/engine';
import { DistillRecipe } from '@attune/fdd';
import { expect, test } from 'vitest';

const recipes = resolve('packages/pocket/recipes');
const read = (name: string): TrainRecipe =>
  parseYaml(TrainRecipe, readFileSync(join(recipes, name), 'utf8'), name);

const names = readdirSync(recipes);

/** Stages without a grid, for the reasons in stages/README.md. */
const bare = ['align-3', 'video-2'];

test('every stage has its recipe, its log and a grid of samples', () => {
  const stages = resolve('packages/pocket/stages');
  const folders = readdirSync(stages).filter((name) => !name.endsWith('.md'));
  for (const name of folders) {
    const files = readdirSync(join(stages, name));
    const grids = files.filter((file) => /^grid\.(png|webp)$/.test(file));
    expect([
      name,
      files.includes('recipe.yaml'),
      files.includes('log.jsonl'),
      grids.length,
    ]).toEqual([name, true, true, bare.includes(name) ? 0 : 1]);
  }
});

test.each(names.filter((name) => name.startsWith('align')))(
  '%s is a distillation recipe',
  (name) => {
    const text = readFileSync(join(recipes, name), 'utf8');
    const { distill } = parseYaml(DistillRecipe, text, name);
    expect(Object.keys(distill.teachers)).toEqual(['video', 'edit']);
  },
);

test.each(names.filter((name) => !name.startsWith('align')))('%s is a training recipe', (name) => {
  const { train } = read(name);
  expect(train.batch % (train.micro ?? train.batch)).toBe(0);
});

test.each([
  ['edit-1.yaml', 'edit'],
  ['video-1.yaml', 'video'],
] as const)(
  '%s: a step changes the adapter, and its folder opens again',
  async (file, name) => {
    const recipe = read(file);
    const run = mkdtempSync(join(tmpdir(), 'stage-'));
    const loader = new PluginLoader(findPlugins('packages/cli'));
    const runtime = new OrtRuntime({ threads: 1 });
    const { state } = await runTraining(
      { ...recipe, train: { ...recipe.train, steps: 1, batch: 1, micro: 1, warmup: 0, ema: 0 } },
      { loader, runtime, folder: recipes, run: join(run, 'run') },
    );
    await runtime.release();
    expect(state.optimizer.step).toBe(1);
    const saved = join(run, 'run', 'best', name);
    const stack = StackFile.parse({
      backbone: join(recipes, recipe.stack.backbone),
      adapters: [{ use: name, from: saved }],
    });
    const again = await openStack(stack, '.', loader, { fresh: true });
    for (const [key, values] of Object.entries(state.params)) {
      const array = again.weights.entry(key).load();
      const stored = toF32(array).data;
      // Half precision: 11 bits, or 2⁻²⁵ for the smallest.
      const far = values.findIndex((x, i) => Math.abs(stored[i] - x) > Math.abs(x) / 2048 + 3e-8);
      expect({ key, dtype: array.dtype, far }).toEqual({ key, dtype: 'f16', far: -1 });
    }
  },
  120_000,
);

test('a validation changes nothing but the log: equal samples with equal noise at every measurement', async () => {
  const recipe = read('edit-1.yaml');
  const loader = new PluginLoader(findPlugins('packages/cli'));
  const runtime = new OrtRuntime({ threads: 1 });
  const trained = async (changes: Partial<TrainRecipe['train']>) => {
    const run = join(mkdtempSync(join(tmpdir(), 'stage-')), 'run');
    const train = { ...recipe.train, batch: 2, micro: 1, warmup: 0, ema: 0, ...changes };
    const { state } = await runTraining(
      { ...recipe, train, log_every: 1 },
      { loader, runtime, folder: recipes, run },
    );
    const lines = readFileSync(join(run, 'log.jsonl'), 'utf8').trim().split('\n');
    return { state, log: lines.map((line) => JSON.parse(line) as Record<string, number>) };
  };
  const validation = { every: 1, samples: 3 };
  const measured = await trained({ steps: 2, validation });
  const plain = await trained({ steps: 2 });
  const still = await trained({ steps: 2, lr: 1e-30, weight_decay: 0, validation });
  await runtime.release();
  expect(measured.state.params).toEqual(plain.state.params);
  expect(plain.log[0]).not.toHaveProperty('validation_loss');
  const losses = (log: typeof still.log) => log.map(({ validation_loss: loss }) => loss);
  const [first, second] = losses(still.log);
  expect(first).toBeGreaterThan(0);
  expect(second).toBe(first);
  expect(still.log[0].loss).not.toBe(still.log[1].loss);
  const [one, other] = losses(measured.log);
  expect(one).not.toBe(other);
}, 240_000);
