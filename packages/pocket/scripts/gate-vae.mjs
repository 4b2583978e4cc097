/**
 * The autoencoder's gate: PSNR of reconstructions of frames no training has seen, and what
 * the judge recognises before and after the autoencoder.
 *
 *   node packages/pocket/scripts/gate-vae.mjs [--weights PLACE] [--config FOLDER] [--judge FOLDER]
 *     [--frames N] [--out GRID.png] [--threads N]
 *
 * PLACE is a model folder, a vae folder, or a checkpoint of a run (its ema.safetensors, else params),
 * whose config.json lies in the folder of --config (default: pocket's own).
 */
import { existsSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import { findPlugins, loadModel, ModelRunner, PluginLoader } from '@attune/core';
import { OrtRuntime, Rng, Weights } from '@attune/engine';
import { formatReport, psnr, sharpness } from '@attune/eval';
import { FRAMES, HEADS, Judge, recognised, renderFrame, sampleScene, SIDE } from '@attune/pocket';

import { writeGrid } from './grid.mjs';

const pocket = join(dirname(fileURLToPath(import.meta.url)), '..');
const models = join(pocket, 'models');
const { values: flags } = parseArgs({
  options: {
    weights: { type: 'string', default: models },
    config: { type: 'string', default: join(models, 'vae') },
    judge: { type: 'string', default: join(models, 'judge') },
    frames: { type: 'string', default: '500' },
    out: { type: 'string', default: 'runs/gates/vae.png' },
    threads: { type: 'string', default: '1' },
  },
});

/** Trainings draw from the streams of their recipes' small seeds; the gate from this one. */
const HELD_OUT_SEED = 900_001;
const BATCH = 25;
const AREA = SIDE * SIDE;
const PIXELS = 3 * AREA;

const f32 = (shape, data) => ({ dtype: 'f32', shape, data });

/** The model of a folder, or pocket's with the weights of a checkpoint. */
async function openVae(place) {
  const inside = ['ema.safetensors', 'params.safetensors'].map((name) => join(place, name));
  const file = existsSync(place) && statSync(place).isFile() ? place : inside.find(existsSync);
  if (!file) return loadModel(existsSync(join(place, 'vae')) ? join(place, 'vae') : place);
  const bare = await loadModel(flags.config, { fresh: true });
  return { ...bare, weights: Weights.overlay(bare.weights, Weights.fromFile(file)) };
}

const stream = Rng.of(HELD_OUT_SEED).fork('gate');
const count = Number(flags.frames);
const scenes = Array.from({ length: count }, (_, id) => {
  const rng = stream.fork(id);
  const scene = sampleScene(rng);
  return { scene, ...renderFrame(scene, rng.int(FRAMES)) };
});

const runtime = new OrtRuntime({ threads: Number(flags.threads) });
const vae = new ModelRunner(await openVae(flags.weights), runtime);
const loader = new PluginLoader(findPlugins(pocket));
const judge = existsSync(join(flags.judge, 'model.safetensors'))
  ? await Judge.open(flags.judge, runtime, loader)
  : undefined;

const originals = new Float32Array(count * PIXELS);
scenes.forEach(({ pixels }, k) => originals.set(pixels, k * PIXELS));
const decoded = new Float32Array(count * PIXELS);
const right = Object.fromEntries(Object.keys(HEADS).map((head) => [head, { clean: 0, after: 0 }]));
let [latentSum, latentSquares, latentCount] = [0, 0, 0];
for (let from = 0; from < count; from += BATCH) {
  const rows = Math.min(BATCH, count - from);
  const shape = [rows, 3, SIDE, SIDE];
  const clean = f32(shape, originals.slice(from * PIXELS, (from + rows) * PIXELS));
  const latents = await vae.encodeImages(clean);
  for (const value of latents.data) {
    latentSum += value;
    latentSquares += value * value;
    latentCount++;
  }
  const { data } = await vae.decodeLatents(latents);
  // Eight bits, as any picture that leaves the model.
  const seen = data.map((v) => Math.round(255 * Math.min(1, Math.max(0, v))) / 255);
  decoded.set(seen, from * PIXELS);
  if (!judge) continue;
  for (const [when, frames] of [
    ['clean', clean],
    ['after', f32(shape, seen)],
  ])
    for (const [head, hits] of Object.entries(
      recognised(
        await judge.see(frames),
        scenes.slice(from, from + rows).map(({ scene }) => scene),
      ),
    ))
      right[head][when] += hits.filter(Boolean).length;
}
await vae.release();
await judge?.release();

const mean = (list) => list.reduce((a, b) => a + b, 0) / list.length;
const frame = (data, k) => f32([1, 3, SIDE, SIDE], data.subarray(k * PIXELS, (k + 1) * PIXELS));
const each = (of) => scenes.map((_, k) => of(frame(decoded, k), frame(originals, k), k));
const mask = (k) => f32([1, SIDE, SIDE], scenes[k].mask);
const whole = each((a, b) => psnr(a, b));
const deviation = Math.sqrt(latentSquares / latentCount - (latentSum / latentCount) ** 2);
const measured = [
  ['PSNR, dB (gate: 30)', mean(whole)],
  ['PSNR of the worst tenth, dB', whole.toSorted((a, b) => a - b)[Math.floor(count / 10)]],
  ['PSNR inside the object, dB', mean(each((a, b, k) => psnr(a, b, mask(k))))],
  ['sharpness, share of the gradient energy', mean(each((a, b) => sharpness(a, b)))],
  ['sharpness inside the object', mean(each((a, b, k) => sharpness(a, b, mask(k))))],
  ['latent mean', latentSum / latentCount],
  ['latent deviation', deviation],
];
console.log(
  formatReport({
    title: `# Autoencoder: ${count} held-out frames (${flags.weights})`,
    metrics: [{ key: 'value', label: 'value', digits: 3 }],
    rows: measured.map(([name, value]) => ({ name, values: { value } })),
  }),
);
if (judge) {
  const share = ({ clean, after }) => ({
    clean: (100 * clean) / count,
    after: (100 * after) / count,
    lost: (100 * (clean - after)) / count,
  });
  console.log(
    formatReport({
      title: `\n# The judge (${flags.judge}); gates: object ≥ 98 % clean, ≥ 95 % after, at most 2 points lost`,
      metrics: [
        { key: 'clean', label: 'clean', unit: '%', digits: 1 },
        { key: 'after', label: 'after the VAE', unit: '%', digits: 1 },
        { key: 'lost', label: 'lost', unit: 'points', digits: 1 },
      ],
      rows: Object.entries(right).map(([name, hits]) => ({ name, values: share(hits) })),
    }),
  );
} else console.log(`\nNo judge weights in ${flags.judge}: recognition not measured.`);

// Originals over their reconstructions.
const columns = 12;
const rowOf = (data, r) =>
  Array.from({ length: columns }, (_, c) => r * columns + c)
    .filter((k) => k < count)
    .map((k) => data.subarray(k * PIXELS, (k + 1) * PIXELS));
await writeGrid(
  flags.out,
  [0, 1, 2, 3].flatMap((r) => [rowOf(originals, r), rowOf(decoded, r)]),
);
