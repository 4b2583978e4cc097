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

import { ddimPlan, findPlugins, loadModel, ModelRunner, PluginLoader, sample } from '@attune/core';
import { OrtRuntime, Rng, Weights } from '@attune/engine';
import { formatReport } from '@attune/eval';
import { imageCaption, Judge, recognised, sampleScene, SIDE } from '@attune/pocket';

import { writeGrid } from './grid.mjs';

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
const BATCH = 25;
const PIXELS = 3 * SIDE * SIDE;

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
const { channels, factor } = runner.latents;
const side = SIDE / factor;
const plan = ddimPlan(model.schedule, Number(flags.steps));

const frames = [];
const hits = {};
for (let from = 0; from < count; from += BATCH) {
  const some = wanted.slice(from, from + BATCH);
  const B = some.length;
  const text = (await runner.encodeText(some.map(({ caption }) => caption))).states;
  const none = (await runner.encodeText(some.map(() => ''))).states;
  const latents = await sample(runner, {
    dims: { B, F: 1, H: side, W: side, L: text.shape[1] },
    branches: { text: { encoder_hidden_states: text }, none: { encoder_hidden_states: none } },
    guidance: {
      convention: 'uncond+s*delta',
      terms: [{ base: 'none', cond: 'text', scale: Number(flags.guidance) }],
    },
    plan,
    noise: stream.fork('noise', from).normals([B, channels, side, side]),
  });
  const decoded = await runner.decodeLatents(latents);
  // Eight bits, as any picture that leaves the model.
  const unit = decoded.data.map(
    (v) => Math.round(255 * Math.min(1, Math.max(0, (v + 1) / 2))) / 255,
  );
  const seen = await judge.see({ dtype: 'f32', shape: decoded.shape, data: unit });
  const scenes = some.map(({ scene }) => scene);
  for (const [head, right] of Object.entries(recognised(seen, scenes)))
    (hits[head] ??= []).push(...right);
  for (let k = 0; k < B; k++) frames.push(unit.slice(k * PIXELS, (k + 1) * PIXELS));
}
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
