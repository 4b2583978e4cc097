/**
 * What it costs to compute fixed values (flipped kernels, products of a frozen LoHa, norms of a frozen DoRA)
 * in every model against reading them from the cache folder: opening, one run, private memory.
 *
 *   node bench/fixed.mjs [--threads 1] [--only dora]
 */

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

import {
  add,
  conv2d,
  div,
  f32,
  FixedValues,
  grad,
  input,
  linear,
  matmul,
  mul,
  OrtRuntime,
  param,
  Program,
  Rng,
  silu,
  sqrt,
  square,
  sub,
  sum,
  toHalf,
  tracePosition,
  Weights,
  writeSafetensors,
} from '@attune/engine';

const { values: options } = parseArgs({
  options: {
    threads: { type: 'string', default: '1' },
    only: { type: 'string', default: '' },
    child: { type: 'string' },
  },
});

/** Layers of one width; `rows` is the side of a picture or the number of tokens. */
const cases = [
  { kind: 'flip', layers: 8, width: 640, rows: 16, dtype: 'f32' },
  { kind: 'flip', layers: 8, width: 640, rows: 16, dtype: 'f16' },
  { kind: 'loha', layers: 12, width: 1280, rows: 256, dtype: 'f16' },
  { kind: 'dora', layers: 12, width: 1280, rows: 256, dtype: 'f16' },
  // On both sides of the least size that is stored: 0.6 and 1.3 MiB a kernel.
  { kind: 'flip', layers: 32, width: 128, rows: 16, dtype: 'f32' },
  { kind: 'flip', layers: 32, width: 192, rows: 16, dtype: 'f32' },
];

function trace({ kind, layers, width, rows }) {
  const shapes = {};
  const weight = (name, shape) => param(name, (shapes[name] = shape));
  const marks = [];
  const x = input('x', kind === 'flip' ? [1, width, rows, rows] : [rows, width]);
  let y = x;
  for (let i = 0; i < layers; i++) {
    if (kind === 'flip')
      y = silu(conv2d(y, weight(`w${i}`, [width, width, 3, 3]), undefined, { padding: 1 }));
    else {
      const w = weight(`w${i}`, [width, width]);
      const product = (name) =>
        matmul(weight(`${name}${i}.a`, [width, 16]), weight(`${name}${i}.b`, [16, width]));
      const delta =
        kind === 'loha' ? mul(product('one'), product('two')) : mul(product('low'), 0.1);
      y = silu(
        add(linear(y, w), linear(y, kind === 'loha' ? delta : rescaled(w, delta, weight, i))),
      );
    }
    marks.push(tracePosition());
  }
  const [g] = grad([y], [input('c', y.shape)], [x]);
  return { outputs: { g }, marks, shapes };
}

function rescaled(w, delta, weight, i) {
  const whole = add(w, delta);
  const norm = sqrt(sum(square(whole), [1], { keep: true }));
  return sub(mul(whole, div(weight(`m${i}`, [w.dim(0), 1]), norm)), w);
}

const anonymous = () =>
  Number(/RssAnon:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? 0) / 1024;

/** One process: the first run opens everything, the fastest of five more is a run. */
async function measure({ one, file, folder, profile }) {
  const { outputs, marks, shapes } = trace(one);
  if (!profile) {
    const rng = Rng.of(1);
    const drawn = Object.entries(shapes).map(([name, shape]) => {
      const { data } = rng.fork(name).normals(shape);
      const scale = (shape.length > 1 ? shape.slice(1).reduce((a, b) => a * b, 1) : 1) ** -0.5;
      const array = f32(
        data.map((value) => value * scale),
        shape,
      );
      return [name, one.dtype === 'f32' ? array : toHalf(array, one.dtype)];
    });
    writeSafetensors(file, drawn);
    return {};
  }
  const runtime = new OrtRuntime({ threads: Number(options.threads), profile });
  const fixed = new FixedValues(folder);
  const program = new Program(
    { outputs, marks },
    { runtime, weights: Weights.fromFile(file), fixed },
  );
  const feeds = Object.fromEntries(
    [...program.inputs].map(([name, { shape }]) => [name, Rng.of(2).fork(name).normals(shape)]),
  );
  const before = anonymous();
  const timed = async () => {
    const start = performance.now();
    await program.run(feeds);
    return performance.now() - start;
  };
  const first = await timed();
  const after = anonymous();
  const runs = [];
  for (let i = 0; i < 5; i++) runs.push(await timed());
  const run = Math.min(...runs);
  const peak = process.resourceUsage().maxRSS / 1024;
  return { open: first - run, run, private: after - before, peak };
}

function inChild(request) {
  const args = [process.argv[1], '--threads', options.threads, '--child', JSON.stringify(request)];
  const { stdout, status } = spawnSync(process.execPath, args, {
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  if (status !== 0) throw new Error(`a measurement ended with ${status}`);
  return JSON.parse(stdout);
}

if (options.child) console.log(JSON.stringify(await measure(JSON.parse(options.child))));
else {
  const scratch = mkdtempSync(join(tmpdir(), 'attune-fixed-'));
  console.log(
    'case                             profile    values    open ms  run ms  private MiB  peak MiB',
  );
  try {
    for (const [i, one] of cases.entries()) {
      if (!one.kind.includes(options.only)) continue;
      const file = join(scratch, `${i}.safetensors`);
      const folder = join(scratch, `${i}`);
      inChild({ one, file });
      for (const profile of ['prepacked', 'mapped']) {
        const rows = { 'in graph': undefined, made: folder, stored: folder };
        if (profile === 'mapped') delete rows.made;
        for (const [label, where] of Object.entries(rows)) {
          const got = inChild({ one, file, profile, folder: where });
          const name = `${one.layers} × ${one.kind} ${one.width} ${one.dtype}, ${one.rows}`;
          console.log(
            name.padEnd(32),
            profile.padEnd(10),
            label.padEnd(9),
            ...[got.open, got.run, got.private, got.peak].map((n, k) =>
              n.toFixed(k === 1 ? 1 : 0).padStart([7, 7, 12, 9][k]),
            ),
          );
        }
      }
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}
