/**
 * Seams of long clips: how much an edited clip flickers where one window ends and the next begins, and
 * elsewhere, for each way of joining windows; against exact flow, on scenes whose motion goes there and
 * back.
 *
 *   node packages/pocket/scripts/seams.mjs [--stack FILE] [--clips N] [--frames N] [--joins LIST]
 *     [--window N] [--overlap N] [--steps N] [--out STRIPS.png] [--threads N]
 *
 * `apart` are windows that share nothing. A clip of 128 frames takes 16 to 21 windows for each way.
 * The warp error (× 1000, lower is better) is the mean over the pairs of neighbouring frames
 *   at borders    from the last frame that the earlier window made alone or led, to the first new one;
 *   in overlaps   into and within the frames that two windows share;
 *   elsewhere     all others.
 * No way of joining changes what a window alone does: read `at borders` beside `elsewhere`, and both
 * beside the truth's own, which is what resampling costs.
 */
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import { windows } from '@attune/core';
import { OrtRuntime, Rng } from '@attune/engine';
import { flowValidity, formatReport, motionRatio, psnr, rowsOf, warpError } from '@attune/eval';
import { renderLong, sampleEdit, SIDE, TASKS } from '@attune/pocket';

import { writeGrid } from './grid.mjs';
import { editedClip, openStacks } from './stacks.mjs';

const pocket = join(dirname(fileURLToPath(import.meta.url)), '..');
const { values: flags } = parseArgs({
  options: {
    stack: { type: 'string', default: join(pocket, 'stacks', 'aligned.yaml') },
    clips: { type: 'string', default: '7' },
    frames: { type: 'string', default: '128' },
    joins: { type: 'string', default: 'apart,correct,fuse,both' },
    window: { type: 'string', default: '8' },
    overlap: { type: 'string', default: '2' },
    steps: { type: 'string' },
    out: { type: 'string' },
    threads: { type: 'string', default: '1' },
  },
});

/** Trainings draw from the streams of their recipes' small seeds, suites and gates from others. */
const HELD_OUT_SEED = 900_501;

const F = Number(flags.frames);
const size = Number(flags.window);
const runtime = new OrtRuntime({ threads: Number(flags.threads) });
const stack = await openStacks(flags.stack, runtime, flags.steps);

const array = (data, ...shape) => ({ dtype: 'f32', shape, data });
const framesOf = ({ frames }) => array(frames, F, 3, SIDE, SIDE);

/** Windows that share nothing where `way` is `apart`. */
const windowOf = (way) => ({ size, overlap: way === 'apart' ? 0 : Number(flags.overlap) });

const edited = (edit, source, id, way) =>
  editedClip(stack, edit, source, {
    seed: id,
    window: windowOf(way),
    ...(way === 'apart' ? {} : { join: way }),
  });

/** Where each pair of frames f, f + 1 lies. */
async function places(window) {
  const found = Array.from({ length: F - 1 }, () => 'elsewhere');
  for await (const { start, seen } of windows(Array.from({ length: F }).keys(), window)) {
    if (start === 0) continue;
    const border = start + seen - 1;
    for (let f = border - Math.min(seen, window.overlap); f < border; f++) found[f] = 'overlap';
    found[border] = 'border';
  }
  return found;
}

const mean = (list) => (list.length ? list.reduce((a, b) => a + b, 0) / list.length : Number.NaN);
const ways = flags.joins.split(',');
const found = {};
const strips = [];

function measure(name, frames, truth, clip, at) {
  const flow = array(clip.flow, F - 1, 2, SIDE, SIDE);
  const valid = flowValidity(flow, array(clip.masks, F, SIDE, SIDE));
  const row = (found[name] ??= { border: [], overlap: [], elsewhere: [], psnr: [], motion: [] });
  for (let f = 0; f + 1 < F; f++) {
    const pair = [rowsOf(frames, f, f + 2), rowsOf(flow, f, f + 1), rowsOf(valid, f, f + 1)];
    const error = 1000 * warpError(...pair);
    if (Number.isFinite(error)) row[at[f]].push(error);
  }
  row.psnr.push(psnr(frames, truth));
  const motion = motionRatio(frames, truth);
  if (Number.isFinite(motion)) row.motion.push(motion);
}

for (let id = 0; id < Number(flags.clips); id++) {
  const edit = sampleEdit(Rng.of(HELD_OUT_SEED).fork('clip', id), TASKS[id % TASKS.length]);
  const [source, target] = [edit.source, edit.target].map((scene) => renderLong(scene, F));
  const truth = framesOf(target);
  strips.push(truth);
  for (const way of ways) {
    const began = performance.now();
    const frames = await edited(edit, framesOf(source), id, way);
    measure(way, frames, truth, target, await places(windowOf(way)));
    strips.push(frames);
    const seconds = Math.round((performance.now() - began) / 1000);
    console.error(`clip ${id} (${edit.task}, ${edit.target.motion}), ${way}: ${seconds} s`);
  }
  measure('truth', truth, truth, target, await places(windowOf('joined')));
}
await stack.release();

console.log(
  formatReport({
    title: `# Seams: ${flags.clips} clips of ${F} frames, windows of ${size} that share ${flags.overlap}, ${stack.plan.steps.length} steps`,
    metrics: [
      { key: 'border', label: 'warp error × 1000 at borders', better: 'lower' },
      { key: 'overlap', label: 'in overlaps', better: 'lower' },
      { key: 'elsewhere', label: 'elsewhere', better: 'lower' },
      { key: 'ratio', label: 'border / elsewhere', better: 'lower' },
      { key: 'psnr', label: 'PSNR to the truth', unit: 'dB', better: 'higher' },
      { key: 'motion', label: 'motion / truth' },
    ],
    rows: Object.entries(found).map(([name, row]) => ({
      name,
      values: {
        border: mean(row.border),
        overlap: mean(row.overlap),
        elsewhere: mean(row.elsewhere),
        ratio: mean(row.border) / mean(row.elsewhere),
        psnr: mean(row.psnr),
        motion: mean(row.motion),
      },
    })),
  }),
);
if (flags.out) {
  const rows = strips.map((clip) =>
    Array.from({ length: F }, (_, f) => rowsOf(clip, f, f + 1).data),
  );
  await writeGrid(flags.out, rows);
}
