/**
 * Times the same work here and in PyTorch, round by round in turn, and prints the ratios.
 *
 *   pnpm bench [--only NAME,…] [--rounds 5] [--threads 1] [--cores 0] [--python python3] [--json FILE]
 *
 * PyTorch comes from bench/requirements.txt. `--cores` pins every process to these (taskset, Linux).
 */

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';

import { cases } from './cases.mjs';

const { values: options } = parseArgs({
  options: {
    only: { type: 'string' },
    rounds: { type: 'string', default: '5' },
    threads: { type: 'string', default: '1' },
    cores: { type: 'string' },
    python: { type: 'string', default: 'python3' },
    json: { type: 'string' },
  },
});
const threads = Number(options.threads);
const here = (name) => join(import.meta.dirname, name);

/** A process that answers a line of JSON with another. */
class Side {
  #lines;
  #process;

  constructor(name, command, args) {
    this.name = name;
    const pinned = options.cores
      ? ['taskset', '-c', options.cores, command, ...args]
      : [command, ...args];
    this.#process = spawn(pinned[0], pinned.slice(1), {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, OMP_NUM_THREADS: String(threads) },
    });
    this.#lines = createInterface({ input: this.#process.stdout })[Symbol.asyncIterator]();
  }

  async ask(request) {
    this.#process.stdin.write(`${JSON.stringify({ ...request, threads })}\n`);
    const { value, done } = await this.#lines.next();
    if (done) throw new Error(`${this.name} ended`);
    return JSON.parse(value);
  }

  close() {
    this.#process.stdin.end();
  }
}

const torch = (name) => new Side(name, options.python, [here('torch_side.py')]);
const variants = ['nchw', 'channels_last', 'bf16'];

/** Seconds of one call: the least of the rounds, per side. */
async function timed(one, folder) {
  const maker = torch('make');
  await maker.ask({ do: 'make', case: one, folder });
  maker.close();
  const sides = [new Side('ours', process.execPath, [here('ours.mjs')]), ...variants.map(torch)];
  const best = Object.fromEntries(sides.map(({ name }) => [name, Infinity]));
  try {
    for (const side of sides) await side.ask({ do: 'load', case: one, folder, variant: side.name });
    // As many calls a round as fill about a second.
    const { seconds } = await sides[1].ask({ do: 'round', times: 1 });
    const times = Math.max(1, Math.round(1 / seconds));
    for (let round = 0; round < Number(options.rounds); round++)
      for (const side of sides) {
        const answer = await side.ask({ do: 'round', times });
        best[side.name] = Math.min(best[side.name], answer.seconds);
      }
  } finally {
    for (const side of sides) side.close();
  }
  return best;
}

const cell = (seconds) => seconds.toFixed(3);

const wanted = options.only?.split(',');
const results = [];
console.log(
  `${cpus()[0].model}, ${threads} thread${threads > 1 ? 's' : ''}, float32; seconds a call, the least of ${options.rounds} rounds\n`,
);
console.log('| | ours | PyTorch NCHW | channels_last | PyTorch / ours | goal | bf16 autocast |');
console.log('|---|---|---|---|---|---|---|');
for (const one of cases) {
  if (wanted && !wanted.includes(one.name)) continue;
  const folder = mkdtempSync(join(tmpdir(), 'attune-bench-'));
  try {
    const best = await timed(one, folder);
    const ratio = Math.min(best.nchw, best.channels_last) / best.ours;
    results.push({ name: one.name, threads, ratio, goal: one.goal, seconds: best });
    console.log(
      `| ${one.about} | ${[best.ours, best.nchw, best.channels_last].map(cell).join(' | ')} | **${ratio.toFixed(2)}** | ${one.goal.toFixed(2)} | ${cell(best.bf16)} |`,
    );
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
if (options.json) writeFileSync(options.json, `${JSON.stringify(results, null, 2)}\n`);
