/**
 * The backbone's gate: pictures of captions no training has seen, as the judge sees them.
 *
 *   node packages/pocket/scripts/gate-backbone.mjs [--model FOLDER] [--unet FILE] [--captions N]
 *     [--guidance S] [--steps N] [--out GRID.png] [--threads N]
 *
 * FILE: a checkpoint's ema.safetensors, over the folder's own weights. Gates: object ≥ 80 %, background ≥ 95 %.
 */
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import { findPlugins, loadModel, ModelRunner, PluginLoader } from '@attune/core';
import { OrtRuntime, Rng, Weights } from '@attune/engine';
import { formatReport } from '@attune/eval';
import { imageCaption, Judge, recognised, sampleScene } from '@attune/pocket';

import { writeGrid } from './grid.mjs';
import { picturesOf } from './pictures.mjs';

const pocket = join(dirname(fileURLToPath(import.meta.url)), '..');
const { values: flags } = parseArgs({
  options: {
    model: { type: 'string', default: join(pocket, 'models') },
    unet: { type: 'string' },
    judge: { type: 'string', default: join(pocket, 'models', 'judge') },
    captions: { type: 'string', default: '500' },
    guidance: { type: 'string', default: '3' },
    steps: { type: 'string', default: '20' },
    out: { type: 'string', default: 'runs/gates/backbone.png' },
    threads: { type: 'string', default: '1' },
  },
});

/** Trainings draw from the streams of their recipes' small seeds; the gate from this one. */
const HELD_OUT_SEED = 900_001;

const stream = Rng.of(HELD_OUT_SEED).fork('captions');
const count = Number(flags.captions);
const wanted = Array.from({ length: count }, (_, id) => {
  const rng = stream.fork(id);
  const scene = sampleScene(rng);
  return { scene, caption: imageCaption(scene, rng) };
});

const runtime = new OrtRuntime({ threads: Number(flags.threads) });
const bare = await loadModel(flags.model, { fresh: flags.unet !== undefined });
const model = flags.unet
  ? { ...bare, weights: Weights.overlay(bare.weights, Weights.fromFile(flags.unet)) }
  : bare;
const runner = new ModelRunner(model, runtime);
const judge = await Judge.open(flags.judge, runtime, new PluginLoader(findPlugins(pocket)));

const hits = {};
const frames = await picturesOf(
  runner,
  wanted.map(({ caption }) => caption),
  {
    guidance: Number(flags.guidance),
    steps: Number(flags.steps),
    noise: stream,
    judge,
    onSeen: (seen, from) => {
      const scenes = wanted.slice(from, from + seen.object.length).map(({ scene }) => scene);
      for (const [head, right] of Object.entries(recognised(seen, scenes)))
        (hits[head] ??= []).push(...right);
    },
  },
);
await runner.release();
await judge.release();

const share = (list) => (100 * list.filter(Boolean).length) / list.length;
console.log(
  formatReport({
    title: `# Backbone: ${count} held-out captions, guidance ${flags.guidance}, ${flags.steps} steps; gates: object ≥ 80 %, background ≥ 95 %`,
    metrics: [{ key: 'share', label: 'seen by the judge', unit: '%', digits: 1 }],
    rows: Object.entries(hits).map(([name, list]) => ({ name, values: { share: share(list) } })),
  }),
);
const rows = Array.from({ length: 6 }, (_, r) => frames.slice(r * 12, (r + 1) * 12));
await writeGrid(
  flags.out,
  rows.filter((row) => row.length > 0),
);
wanted.slice(0, 24).forEach(({ caption }, i) => console.log(`${i + 1}. ${caption}`));
