/**
 * The video adapter's gate: clips from a true first frame and a caption no training has seen; does the
 * object move as the caption says, and as much as it should?
 *
 *   node packages/pocket/scripts/gate-video.mjs [--adapter FOLDER] [--models FOLDER] [--clips N]
 *     [--guidance S] [--steps N] [--out STRIPS.png] [--threads N]
 *
 * Gates: motion class ≥ 80 %, motion ratio 0.8 – 1.2 (median over clips that move).
 */
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import {
  ddimPlan,
  findPlugins,
  ModelRunner,
  openStack,
  PluginLoader,
  sample,
  StackFile,
} from '@attune/core';
import { OrtRuntime, Rng } from '@attune/engine';
import {
  backgroundOf,
  differenceMasks,
  formatReport,
  motionClass,
  motionRatio,
  psnr,
  rowsOf,
  trackOf,
} from '@attune/eval';
import {
  clipCaption,
  FRAMES,
  framesOf,
  masksOf,
  MOTIONS,
  renderClip,
  sampleScene,
  SIDE,
} from '@attune/pocket';

import { writeGrid } from './grid.mjs';

const pocket = join(dirname(fileURLToPath(import.meta.url)), '..');
const { values: flags } = parseArgs({
  options: {
    adapter: { type: 'string', default: join(pocket, 'adapters', 'video') },
    models: { type: 'string', default: join(pocket, 'models') },
    clips: { type: 'string', default: '105' },
    guidance: { type: 'string', default: '2' },
    steps: { type: 'string', default: '16' },
    out: { type: 'string', default: 'runs/gates/video.png' },
    threads: { type: 'string', default: '1' },
  },
});

/** Trainings draw from the streams of their recipes' small seeds; the gate from this one. */
const HELD_OUT_SEED = 900_301;

const runtime = new OrtRuntime({ threads: Number(flags.threads) });
const loader = new PluginLoader(findPlugins(join(pocket, '..', 'cli')));
const stack = StackFile.parse({
  backbone: flags.models,
  adapters: [{ use: 'video', from: flags.adapter }],
});
const runner = new ModelRunner(await openStack(stack, process.cwd(), loader), runtime);
const { channels, factor } = runner.latents;
const side = SIDE / factor;
const plan = ddimPlan(runner.model.schedule, Number(flags.steps));
const unit = ({ data, ...rest }) => ({
  ...rest,
  data: data.map((v) => Math.round(255 * Math.min(1, Math.max(0, v))) / 255),
});

async function generated(truth, caption, rng) {
  const first = await runner.encodeImages(rowsOf(truth, 0, 1));
  const { states } = await runner.encodeText([caption, '']);
  const text = (row) => ({
    encoder_hidden_states: rowsOf(states, row, row + 1),
    'video.first_frame': first,
  });
  const latents = await sample(runner, {
    dims: { B: 1, F: FRAMES, H: side, W: side, L: states.shape[1] },
    branches: { text: text(0), none: text(1) },
    guidance: {
      convention: 'uncond+s*delta',
      terms: [{ base: 'none', cond: 'text', scale: Number(flags.guidance) }],
    },
    plan,
    noise: rng.normals([FRAMES, channels, side, side]),
  });
  return unit(await runner.decodeLatents(latents));
}

const reconstructed = async (truth) =>
  unit(await runner.decodeLatents(await runner.encodeImages(truth)));

const classOf = (frames, truth, masks) =>
  motionClass(trackOf(frames, differenceMasks(frames, backgroundOf(truth, masks))));

const found = {};
const strips = [];
for (let id = 0; id < Number(flags.clips); id++) {
  const rng = Rng.of(HELD_OUT_SEED).fork('clip', id);
  const motion = MOTIONS[id % MOTIONS.length];
  // Fog moves nothing but hides much: the motion is measured where the object can be seen.
  const scene = sampleScene(rng, { motion, style: undefined, global: undefined });
  const clip = renderClip(scene);
  const [truth, masks] = [framesOf(clip), masksOf(clip)];
  const made = await generated(truth, clipCaption(scene, rng), rng.fork('noise'));
  const systems = { generated: made, 'autoencoder (ceiling)': await reconstructed(truth), truth };
  for (const [name, frames] of Object.entries(systems)) {
    const row = (found[name] ??= { right: {}, ratio: [], psnr: [] });
    (row.right[motion] ??= []).push(classOf(frames, truth, masks) === motion);
    if (motion !== 'still') row.ratio.push(motionRatio(frames, truth));
    row.psnr.push(psnr(rowsOf(frames, 0, 1), rowsOf(truth, 0, 1)));
  }
  if (id < 7)
    for (const frames of [truth, made])
      strips.push(Array.from({ length: FRAMES }, (_, f) => rowsOf(frames, f, f + 1).data));
}
await runner.release();

const share = (list) => (100 * list.filter(Boolean).length) / list.length;
const median = (list) => list.toSorted((a, b) => a - b)[list.length >> 1];
const mean = (list) => list.reduce((a, b) => a + b, 0) / list.length;
console.log(
  formatReport({
    title: `# Video adapter: ${flags.clips} held-out clips, guidance ${flags.guidance}, ${flags.steps} steps; gates: class ≥ 80 %, ratio 0.8 – 1.2`,
    metrics: [
      { key: 'all', label: 'motion class', unit: '%', digits: 1 },
      ...MOTIONS.map((key) => ({ key, label: key, unit: '%', digits: 0 })),
      { key: 'ratio', label: 'motion ratio, median' },
      { key: 'mean', label: 'mean' },
      { key: 'first', label: 'PSNR frame 0', unit: 'dB' },
    ],
    rows: Object.entries(found).map(([name, { right, ratio, psnr: first }]) => ({
      name,
      values: {
        all: share(Object.values(right).flat()),
        ...Object.fromEntries(Object.entries(right).map(([motion, list]) => [motion, share(list)])),
        ratio: median(ratio),
        mean: mean(ratio),
        first: mean(first),
      },
    })),
  }),
);
console.log('\nstrips, in pairs: truth, generated from its first frame and its caption');
await writeGrid(flags.out, strips);
