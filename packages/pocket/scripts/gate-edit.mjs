/**
 * The edit adapter's gate: single frames of edits no training has seen, judged by what the instruction
 * asked for and by what it did not.
 *
 *   node packages/pocket/scripts/gate-edit.mjs [--adapter FOLDER] [--models FOLDER] [--edits N]
 *     [--guidance S] [--image-guidance S] [--steps N] [--out GRID.png] [--threads N]
 *
 * Gates: edit success ≥ 75 %; PSNR outside the mask ≥ 24 dB, or the autoencoder's − 3 dB.
 */
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import {
  ddimPlan,
  editFrames,
  findPlugins,
  ModelRunner,
  openStack,
  PluginLoader,
  StackFile,
} from '@attune/core';
import { OrtRuntime } from '@attune/engine';
import { formatReport, outside, psnr, rowsOf } from '@attune/eval';
import { framesOf, Judge, recognised, SIDE, TASKS, trialOf } from '@attune/pocket';

import { writeGrid } from './grid.mjs';

const pocket = join(dirname(fileURLToPath(import.meta.url)), '..');
const { values: flags } = parseArgs({
  options: {
    adapter: { type: 'string', default: join(pocket, 'adapters', 'edit') },
    models: { type: 'string', default: join(pocket, 'models') },
    edits: { type: 'string', default: '210' },
    guidance: { type: 'string', default: '2' },
    'image-guidance': { type: 'string', default: '1' },
    steps: { type: 'string', default: '16' },
    out: { type: 'string', default: 'runs/gates/edit.png' },
    threads: { type: 'string', default: '1' },
  },
});

const HEADS = { add: 'hat', remove: 'hat', local: 'object' };
/** The frame of each clip that is edited. */
const FRAME = 4;

const runtime = new OrtRuntime({ threads: Number(flags.threads) });
const loader = new PluginLoader(findPlugins(join(pocket, '..', 'cli')));
const stack = StackFile.parse({
  backbone: flags.models,
  adapters: [{ use: 'edit', from: flags.adapter }],
});
const runner = new ModelRunner(await openStack(stack, process.cwd(), loader), runtime);
const judge = await Judge.open(
  join(pocket, 'models', 'judge'),
  runtime,
  new PluginLoader(findPlugins(pocket)),
);

const request = (trial, words) => ({
  instruction: trial.edit.instruction,
  ...(words ? { caption: trial.edit.caption } : {}),
  guidance: { text: Number(flags.guidance), image: Number(flags['image-guidance']) },
  plan: ddimPlan(runner.model.schedule, Number(flags.steps)),
  seed: trial.id,
  size: [SIDE, SIDE],
  window: { size: 1, overlap: 0 },
});

/** The middle frame edited, rounded to eight bits as any picture that leaves the model. */
async function edited(trial, words) {
  const source = rowsOf(framesOf(trial.source), FRAME, FRAME + 1).data;
  const frames = editFrames({ stack: runner, stills: runner }, [source], request(trial, words));
  return rounded((await frames.next()).value);
}

const rounded = (pixels) => pixels.map((v) => Math.round(255 * Math.min(1, Math.max(0, v))) / 255);

async function reconstructed(trial) {
  const latents = await runner.encodeImages(rowsOf(framesOf(trial.target), FRAME, FRAME + 1));
  return rounded((await runner.decodeLatents(latents)).data);
}

const systems = {
  'caption and instruction': (trial) => edited(trial, true),
  'instruction alone': (trial) => edited(trial, false),
  'autoencoder (ceiling)': reconstructed,
  'nothing done': async (trial) => rowsOf(framesOf(trial.source), FRAME, FRAME + 1).data,
};
const hits = {};
const ratios = {};
const pictures = [];
for (let id = 0; id < Number(flags.edits); id++) {
  const trial = trialOf('validation', id);
  const { task, target } = trial.edit;
  const truth = rowsOf(framesOf(trial.target), FRAME, FRAME + 1);
  const mask = rowsOf(trial.mask, FRAME, FRAME + 1);
  const column = [rowsOf(framesOf(trial.source), FRAME, FRAME + 1).data, truth.data];
  for (const [name, make] of Object.entries(systems)) {
    const frame = { ...truth, data: await make(trial) };
    const seen = recognised(await judge.see(frame), [target])[HEADS[task] ?? task];
    ((hits[name] ??= {})[task] ??= []).push(seen[0]);
    if (mask.data.some((v) => v === 0))
      (ratios[name] ??= []).push(psnr(frame, truth, outside(mask)));
    column.push(frame.data);
  }
  if (id < 28) pictures.push(column.slice(0, 4));
}
await runner.release();
await judge.release();

const share = (list) => (100 * list.filter(Boolean).length) / list.length;
const mean = (list) =>
  list.filter(Number.isFinite).reduce((a, b) => a + b, 0) / list.filter(Number.isFinite).length;
console.log(
  formatReport({
    title: `# Edit adapter: ${flags.edits} held-out edits, guidance ${flags.guidance}, image guidance ${flags['image-guidance']}, ${flags.steps} steps; gates: success ≥ 75 %, outside ≥ 24 dB`,
    metrics: [
      { key: 'all', label: 'success', unit: '%', digits: 1 },
      ...TASKS.map((key) => ({ key, label: key, unit: '%', digits: 0 })),
      { key: 'outside', label: 'PSNR outside', unit: 'dB' },
    ],
    rows: Object.keys(systems).map((name) => ({
      name,
      values: {
        all: share(Object.values(hits[name]).flat()),
        ...Object.fromEntries(
          Object.entries(hits[name]).map(([task, list]) => [task, share(list)]),
        ),
        outside: mean(ratios[name]),
      },
    })),
  }),
);
console.log(`\ngrid, top to bottom: source, exact edit, edited with caption, edited without`);
const rows = [0, 14].flatMap((from) =>
  [0, 1, 2, 3].map((which) => pictures.slice(from, from + 14).map((column) => column[which])),
);
await writeGrid(
  flags.out,
  rows.filter((row) => row.length > 0),
);
pictures.forEach((_, id) =>
  console.log(`${id + 1}. ${trialOf('validation', id).edit.instruction}`),
);
