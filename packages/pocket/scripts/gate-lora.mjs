/**
 * The gate of a subject's and of a style's LoRA: what the judge sees in pictures of captions that name them.
 *
 *   node packages/pocket/scripts/gate-lora.mjs [--captions N] [--guidance S] [--steps N] [--out FOLDER] [--threads N]
 *
 * Gate: each recognised in ≥ 80 % of its pictures. Beside it: the backbone without the LoRA.
 */
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import { findPlugins, ModelRunner, openStack, PluginLoader, StackFile } from '@attune/core';
import { OrtRuntime, Rng } from '@attune/engine';
import { formatReport } from '@attune/eval';
import { imageCaption, Judge, labelOf, sampleScene } from '@attune/pocket';

import { writeGrid } from './grid.mjs';
import { picturesOf } from './pictures.mjs';

const pocket = join(dirname(fileURLToPath(import.meta.url)), '..');
const { values: flags } = parseArgs({
  options: {
    captions: { type: 'string', default: '100' },
    guidance: { type: 'string', default: '3' },
    steps: { type: 'string', default: '20' },
    out: { type: 'string', default: 'runs/gates' },
    threads: { type: 'string', default: '1' },
  },
});

const loras = [
  { file: 'lora-dog', head: 'object', fixed: { object: 'dog' } },
  { file: 'lora-line-art', head: 'style', fixed: { style: 'line art', global: undefined } },
];

const HELD_OUT_SEED = 900_001;
const runtime = new OrtRuntime({ threads: Number(flags.threads) });
const loader = new PluginLoader(findPlugins(join(pocket, '..', 'cli')));
const judge = await Judge.open(join(pocket, 'models', 'judge'), runtime, loader);

/** Share of the pictures in which the judge sees what their scene shows, in percent. */
async function shown(adapters, { head }, wanted, noise) {
  const stack = StackFile.parse({ backbone: 'models', adapters });
  const runner = new ModelRunner(await openStack(stack, pocket, loader), runtime);
  const right = [];
  const captions = wanted.map(({ caption }) => caption);
  const frames = await picturesOf(runner, captions, {
    guidance: Number(flags.guidance),
    steps: Number(flags.steps),
    noise,
    judge,
    onSeen: (seen, from) =>
      right.push(...seen[head].map((label, i) => label === labelOf(wanted[from + i].scene, head))),
  });
  await runner.release();
  return { frames, share: (100 * right.filter(Boolean).length) / right.length };
}

const rows = [];
for (const lora of loras) {
  const stream = Rng.of(HELD_OUT_SEED).fork(lora.file);
  const wanted = Array.from({ length: Number(flags.captions) }, (_, id) => {
    const rng = stream.fork(id);
    const scene = sampleScene(rng, lora.fixed);
    return { scene, caption: imageCaption(scene, rng) };
  });
  const from = join('adapters', `${lora.file}.safetensors`);
  const without = await shown([], lora, wanted, stream);
  const mine = await shown([{ use: 'lora', from }], lora, wanted, stream);
  rows.push({ name: lora.file, values: { without: without.share, with: mine.share } });
  await writeGrid(join(flags.out, `${lora.file}.png`), [
    without.frames.slice(0, 12),
    mine.frames.slice(0, 12),
    mine.frames.slice(12, 24),
  ]);
}
await judge.release();
console.log(
  formatReport({
    title: `# LoRAs: ${flags.captions} captions each, guidance ${flags.guidance}, ${flags.steps} steps; gate: ≥ 80 % with the LoRA`,
    metrics: [
      { key: 'without', label: 'seen without', unit: '%', digits: 1 },
      { key: 'with', label: 'seen with', unit: '%', digits: 1 },
    ],
    rows,
  }),
);
