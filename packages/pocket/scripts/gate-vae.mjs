/**
 * The autoencoder's gate (pocket.md): PSNR of reconstructions of frames no training has seen, and what
 * the judge recognises before and after the autoencoder.
 *
 *   node packages/pocket/scripts/gate-vae.mjs [--weights PLACE] [--config FOLDER] [--judge FOLDER]
 *     [--frames N] [--out GRID.png] [--threads N]
 *
 * PLACE is a model folder, a vae folder, or a checkpoint of a run (its ema.safetensors, else params),
 * whose config.json lies in the folder of --config (default: pocket's own).
 */
import { existsSync, mkdirSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import { findPlugins, loadModel, ModelRunner, PluginLoader } from '@attune/core';
import { OrtRuntime, Rng, Weights } from '@attune/engine';
import { formatReport, psnr, sharpness } from '@attune/eval';
import { argmaxRows, FRAMES, HEADS, labelOf, renderFrame, sampleScene, SIDE } from '@attune/pocket';
import sharp from 'sharp';

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

/** The judge with weights, or undefined. A run's `best/judge` serves as well as the bundled one. */
async function openJudge(folder) {
  if (!existsSync(join(folder, 'model.safetensors'))) return undefined;
  return loadModel(folder, { loader: new PluginLoader(findPlugins(pocket)) });
}

/** Classes the judge sees in frames [N, 3, 64, 64] of [0, 1], by head. */
async function classes(judge, { shape, data }) {
  const pixels = f32(
    shape,
    data.map((value) => 2 * value - 1),
  );
  const dims = { B: shape[0], F: 1, H: SIDE, W: SIDE };
  const out = await judge.run({ net: 'judge', dims }, { pixels });
  return Object.fromEntries(
    Object.entries(HEADS).map(([head, names]) => [
      head,
      argmaxRows(out[`logits.${head}`].data, names.length),
    ]),
  );
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
const judgeModel = await openJudge(flags.judge);
const judge = judgeModel && new ModelRunner(judgeModel, runtime);

const originals = new Float32Array(count * PIXELS);
scenes.forEach(({ pixels }, k) => originals.set(pixels, k * PIXELS));
const decoded = new Float32Array(count * PIXELS);
const right = Object.fromEntries(Object.keys(HEADS).map((head) => [head, { clean: 0, after: 0 }]));
let [latentSum, latentSquares, latentCount] = [0, 0, 0];
for (let from = 0; from < count; from += BATCH) {
  const rows = Math.min(BATCH, count - from);
  const shape = [rows, 3, SIDE, SIDE];
  const clean = f32(shape, originals.slice(from * PIXELS, (from + rows) * PIXELS));
  const latents = await vae.encodeImages(
    f32(
      shape,
      clean.data.map((value) => 2 * value - 1),
    ),
  );
  for (const value of latents.data) {
    latentSum += value;
    latentSquares += value * value;
    latentCount++;
  }
  const { data } = await vae.decodeLatents(latents);
  // Eight bits, as any picture that leaves the model.
  const seen = data.map((v) => Math.round(255 * Math.min(1, Math.max(0, (v + 1) / 2))) / 255);
  decoded.set(seen, from * PIXELS);
  if (!judge) continue;
  for (const [when, frames] of [
    ['clean', clean],
    ['after', f32(shape, seen)],
  ])
    for (const [head, guesses] of Object.entries(await classes(judge, frames)))
      guesses.forEach((guess, k) => {
        if (guess === labelOf(scenes[from + k].scene, head)) right[head][when]++;
      });
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

/** Originals and reconstructions in pairs of rows, twice as large. */
async function writeGrid(file, columns = 12, pairs = 4) {
  const width = columns * SIDE;
  const height = pairs * 2 * SIDE;
  const rgb = Buffer.alloc(width * height * 3);
  for (let k = 0; k < Math.min(count, columns * pairs); k++)
    [originals, decoded].forEach((source, row) => {
      const left = (k % columns) * SIDE;
      const top = (2 * Math.floor(k / columns) + row) * SIDE;
      for (let i = 0; i < PIXELS; i++) {
        const y = top + Math.floor((i % AREA) / SIDE);
        const x = left + (i % SIDE);
        rgb[(y * width + x) * 3 + Math.floor(i / AREA)] = Math.round(255 * source[k * PIXELS + i]);
      }
    });
  mkdirSync(dirname(file), { recursive: true });
  await sharp(rgb, { raw: { width, height, channels: 3 } })
    .resize(width * 2, height * 2, { kernel: 'nearest' })
    .png()
    .toFile(file);
}
await writeGrid(flags.out);
console.log(`\nOriginals over reconstructions: ${flags.out}`);
