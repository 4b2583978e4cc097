/**
 * The grid of an alignment: held-out clips, one of each task, as they are, edited by the plain stack, edited by the
 * aligned one, and as they should come out; four frames of each.
 *
 *   node packages/pocket/scripts/grid-align.mjs [--stacks FOLDER] [--from N] [--out GRID.webp] [--threads N]
 *
 * FOLDER holds plain.yaml and aligned.yaml. Those of an alignment that was installed before come out of the history:
 *   git archive COMMIT packages/pocket | tar -x -C ELSEWHERE     (then --stacks ELSEWHERE/packages/pocket/stacks)
 */
import { join } from 'node:path';
import { parseArgs } from 'node:util';

import { OrtRuntime } from '@attune/engine';
import { rowsOf } from '@attune/eval';
import { FRAMES, framesOf, TASKS, trialOf } from '@attune/pocket';

import { writeGrid } from './grid.mjs';
import { editedClip, openStacks } from './stacks.mjs';

const { values: flags } = parseArgs({
  options: {
    stacks: { type: 'string', default: join(import.meta.dirname, '..', 'stacks') },
    from: { type: 'string', default: '0' },
    out: { type: 'string', default: 'runs/gates/align.webp' },
    threads: { type: 'string', default: '1' },
  },
});
/** The frames of a clip that are shown. */
const SHOWN = [0, 2, 5, 7];

const runtime = new OrtRuntime({ threads: Number(flags.threads) });
const [plain, aligned] = await Promise.all(
  ['plain', 'aligned'].map((name) => openStacks(join(flags.stacks, `${name}.yaml`), runtime)),
);

const rows = [];
for (let k = 0; k < TASKS.length; k++) {
  const trial = trialOf('validation', Number(flags.from) + k);
  const source = framesOf(trial.source);
  const request = { seed: trial.id, window: { size: FRAMES, overlap: 0 } };
  const clips = [
    source,
    await editedClip(plain, trial.edit, source, request),
    await editedClip(aligned, trial.edit, source, request),
    framesOf(trial.target),
  ];
  rows.push(clips.flatMap((clip) => SHOWN.map((f) => rowsOf(clip, f, f + 1).data)));
  console.log(`${k + 1}. ${trial.edit.instruction}`);
}
await plain.release();
await aligned.release();
console.log(
  '\nleft to right, frames 0, 2, 5, 7 of each: source, plain stack, aligned stack, truth',
);
await writeGrid(flags.out, rows);
