// Repeats a stage of pocket's training, or all of them: node packages/pocket/scripts/train.mjs [stage]
// A stage is a recipe; it ends with its weights in models/, its log and resolved recipe in stages/.
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { loadModel, ModelRunner } from '@attune/core';
import { OrtRuntime, Rng } from '@attune/engine';
import { images } from '@attune/pocket';

import { writeCandidate } from './candidate.mjs';
import { enlarge } from './enlarge.mjs';
import { keepReplay } from './replay.mjs';
import { wakeWords } from './wake-words.mjs';

const here = dirname(fileURLToPath(import.meta.url));
const pocket = join(here, '..');
const root = join(pocket, '..', '..');
const models = join(pocket, 'models');
const whole = { recursive: true };

/** Copies one file or folder of a run's results to pocket's adapters. */
function adapter(from, name) {
  return (best) => cpSync(join(best, from), join(pocket, 'adapters', name), whole);
}

/** Keeps one folder of a run's results beside the stage's log, for a later stage to start from. */
function ownFolder(stage, name) {
  return (best) => cpSync(join(best, name), join(pocket, 'stages', stage, name), whole);
}

/** In order: each may need the ones before it. `to` takes what the run's `best` folder holds. */
const stages = [
  { name: 'vae-1', to: ownFolder('vae-1', '') },
  { name: 'vae-2', before: enlargeFirst, after: setLatentScale },
  { name: 'judge' },
  { name: 'features' },
  { name: 'backbone-1' },
  { name: 'backbone-2' },
  { name: 'backbone-3' },
  { name: 'edit-1', to: ownFolder('edit-1', 'edit') },
  { name: 'edit-2', to: adapter('edit', 'edit') },
  { name: 'video-1', to: adapter('video', 'video') },
  { name: 'video-2', to: adapter('video', 'video') },
  { name: 'video-3', to: adapter('video', 'video') },
  { name: 'video-4', to: ownFolder('video-4', 'video') },
  { name: 'video-5', to: ownFolder('video-5', 'video'), after: () => wakeWords(models) },
  { name: 'video-6', to: ownFolder('video-6', 'video') },
  { name: 'video-7', to: adapter('video', 'video') },
  { name: 'video-8', to: adapter('video', 'video') },
  { name: 'video-9', to: adapter('video', 'video') },
  { name: 'video-10', to: adapter('video', 'video') },
  { name: 'lora-dog', to: adapter('lora.safetensors', 'lora-dog.safetensors') },
  { name: 'lora-line-art', to: adapter('lora.safetensors', 'lora-line-art.safetensors') },
  { name: 'align-1', command: 'distill', to: adapter('align.safetensors', 'align.safetensors') },
  { name: 'align-2', command: 'distill', to: adapter('align.safetensors', 'align.safetensors') },
  { name: 'align-3', command: 'distill', to: ownFolder('align-3', 'align.safetensors') },
  // Its second candidate was taken by hand; README.md says why.
  { name: 'align-4', command: 'distill', to: ownFolder('align-4', 'align.safetensors') },
  {
    name: 'align-5',
    command: 'distill',
    to: ownFolder('align-5', 'align.safetensors'),
  },
  // Its last candidate is better on more validation clips than the run judges by; README.md says how much.
  {
    name: 'align-6',
    command: 'distill',
    candidate: '99',
    to: adapter('align.safetensors', 'align.safetensors'),
    after: ({ run, stage }) => keepReplay(run, stage),
  },
];

/** Writes 1 / deviation of the latents over 512 frames into the autoencoder's config. */
async function setLatentScale() {
  const model = await loadModel(join(models, 'vae'));
  const runner = new ModelRunner(
    { ...model, latents: { ...model.latents, scale: 1 } },
    new OrtRuntime(),
  );
  const ids = Array.from({ length: 512 }, (_, i) => i);
  const { data, shape } = images().batch(ids, Rng.of(77)).pixels;
  let [sum, square, count] = [0, 0, 0];
  for (let i = 0; i < 512; i += 32) {
    const size = data.length / 512;
    const pixels = {
      dtype: 'f32',
      shape: [32, ...shape.slice(1)],
      data: data.subarray(i * size, (i + 32) * size).map((v) => (v + 1) / 2),
    };
    for (const value of (await runner.encodeImages(pixels)).data) {
      sum += value;
      square += value * value;
      count++;
    }
  }
  await runner.release();
  const deviation = Math.sqrt(square / count - (sum / count) ** 2);
  const file = join(models, 'vae', 'config.json');
  const config = JSON.parse(readFileSync(file, 'utf8'));
  config.scaling_factor = Number((1 / deviation).toPrecision(4));
  writeFileSync(file, `${JSON.stringify(config, null, 2)}\n`);
  console.log(`latents: mean ${(sum / count).toFixed(4)}, deviation ${deviation.toFixed(4)}`);
}

/** The first stage's autoencoder with more latent channels, as the second stage's start. */
async function enlargeFirst() {
  const weights = join(pocket, 'stages', 'vae-1', 'vae', 'diffusion_pytorch_model.safetensors');
  if (!existsSync(weights)) await runStage(stages[0]);
  const start = join(root, 'runs', 'vae-2-start');
  mkdirSync(join(start, 'vae'), { recursive: true });
  cpSync(join(models, 'vae', 'config.json'), join(start, 'vae', 'config.json'));
  enlarge(join(pocket, 'stages', 'vae-1'), start, 2);
}

/** Parts of the model folder. */
function intoModels(best) {
  cpSync(best, models, whole);
}

async function runStage({ name, command = 'train', candidate, before, after, to = intoModels }) {
  const run = join(root, 'runs', name);
  const recipe = join(pocket, 'recipes', `${name}.yaml`);
  const resume = existsSync(join(run, 'recipe.yaml')) ? ['--resume'] : [];
  if (resume.length === 0) await before?.();
  const bin = join(root, 'packages/cli/bin/attune.js');
  const args = [bin, command, recipe, '--run', run, ...resume];
  const { status } = spawnSync(process.execPath, args, { stdio: 'inherit' });
  if (status !== 0) process.exit(status ?? 1);
  const stage = join(pocket, 'stages', name);
  mkdirSync(stage, { recursive: true });
  for (const file of ['log.jsonl', 'recipe.yaml']) cpSync(join(run, file), join(stage, file));
  for (const file of ['keep-best.md', 'keep-best.json'])
    if (existsSync(join(run, 'best', file))) cpSync(join(run, 'best', file), join(stage, file));
  if (candidate) await writeCandidate(run, candidate, join(run, 'candidate'));
  to(join(run, candidate ? 'candidate' : 'best'));
  await after?.({ run, stage });
  lockStacks(bin);
}

/** The bundled stacks' locks say what their files are now. */
function lockStacks(bin) {
  for (const name of ['plain', 'aligned']) {
    const stack = join(pocket, 'stacks', `${name}.yaml`);
    const args = [bin, 'compose', stack, '--lock', '--no-proof'];
    const { status } = spawnSync(process.execPath, args, { stdio: 'inherit' });
    if (status !== 0) process.exit(status ?? 1);
  }
}

const [wanted] = process.argv.slice(2);
const chosen = wanted ? stages.filter(({ name }) => name === wanted) : stages;
if (chosen.length === 0) {
  console.error(`no stage "${wanted}"; stages: ${stages.map(({ name }) => name).join(', ')}`);
  process.exit(2);
}
for (const stage of chosen) await runStage(stage);
