// What test/replay.test.ts repeats: a run's last checkpoint but one, and the update that followed it.
// node packages/pocket/scripts/replay.mjs RUN STAGE
import { cpSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

import { toF32, toHalf, Weights, writeSafetensors } from '@attune/engine';

/** Copies the checkpoint into the stage's folder and writes the change of its parameters, in f16. */
export function keepReplay(run, stage) {
  const [before, after] = readdirSync(join(run, 'checkpoints')).toSorted().slice(-2);
  cpSync(join(run, 'checkpoints', before), join(stage, 'checkpoints', before), { recursive: true });
  const params = (name) => Weights.fromFile(join(run, 'checkpoints', name, 'params.safetensors'));
  const [from, to] = [params(before), params(after)];
  const update = Object.fromEntries(
    [...to.names()].map((name) => {
      const [a, b] = [from, to].map((file) => toF32(file.entry(name).load()));
      const change = { ...b, data: b.data.map((value, i) => value - a.data[i]) };
      return [name, toHalf(change, 'f16')];
    }),
  );
  writeSafetensors(join(stage, 'update.safetensors'), update, {});
}

if (import.meta.url === pathToFileURL(process.argv[1]).href)
  keepReplay(process.argv[2], process.argv[3]);
