/**
 * Peak memory of a distillation with each step recomputed: k = 8 against k = 1, each in a process of its own.
 *
 *   node bench/memory.mjs [--python python3] [--iterations 4]
 */

import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

import { cases } from './cases.mjs';

const { values: options } = parseArgs({
  options: {
    python: { type: 'string', default: 'python3' },
    iterations: { type: 'string', default: '4' },
  },
});
const here = (name) => join(import.meta.dirname, name);

/** Feeds a side its requests and returns its answers. */
function answers(command, args, requests) {
  const input = requests
    .map((request) => `${JSON.stringify({ threads: 1, ...request })}\n`)
    .join('');
  const { status, stdout } = spawnSync(command, args, {
    input,
    stdio: ['pipe', 'pipe', 'inherit'],
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`${command} ended with ${status}`);
  return stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
}

const one = cases.find(({ name }) => name === 'distill-k3-remat');
const folder = mkdtempSync(join(tmpdir(), 'attune-bench-'));
try {
  answers(options.python, [here('torch_side.py')], [{ do: 'make', case: one, folder }]);
  const peak = Object.fromEntries(
    [1, 3, 8].map((k) => {
      const [, , { peak: bytes }] = answers(
        process.execPath,
        [here('ours.mjs')],
        [
          { do: 'load', case: { ...one, k }, folder },
          { do: 'round', times: Number(options.iterations) },
          { do: 'peak' },
        ],
      );
      console.log(`k = ${k}: peak ${(bytes / 2 ** 20).toFixed(0)} MiB`);
      return [k, bytes];
    }),
  );
  console.log(`k = 8 / k = 1: ${(peak[8] / peak[1]).toFixed(3)} (goal: at most 1.05)`);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
