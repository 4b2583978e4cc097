/**
 * The step of reference.py here: opens the stack that make.py wrote, runs the same inputs, and prints how long it
 * took, how much anonymous memory, and how far the results are from PyTorch's.
 *
 *   node bench/full/ours.mjs FOLDER [--threads N] [--without edit,video,look]
 *
 * Fails where the step is further than 1e-3 of the largest entry from PyTorch's, where opening takes more than
 * 10 s, or where anonymous memory reaches 4 GB.
 */

import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';

import {
  ddimPlan,
  findPlugins,
  materialize,
  ModelRunner,
  nominalDims,
  openStack,
  PluginLoader,
  sample,
  StackFile,
} from '@attune/core';
import { openSafetensors, OrtRuntime } from '@attune/engine';

import { Peak } from './peak.mjs';

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: 'string' },
    without: { type: 'string', default: '' },
  },
});
const folder = resolve(positionals[0]);
const without = options.without.split(',');

const peak = new Peak();

const io = openSafetensors(join(folder, 'io.safetensors'));
const theirs = JSON.parse(io.metadata.facts);
const { frames, pixels, guidance, steps } = theirs;
const side = pixels / 8;
const dims = { B: 1, F: frames, H: side, W: side, L: io.tensors.get('text').shape[1] };

/** [1, C, F, H, W] as rows [F, C, H, W]. */
function asRows({ shape: [, c, f, h, w], data }) {
  const rows = new Float32Array(data.length);
  for (let i = 0; i < c; i++)
    for (let k = 0; k < f; k++)
      rows.set(data.subarray((i * f + k) * h * w, (i * f + k + 1) * h * w), (k * c + i) * h * w);
  return { dtype: 'f32', shape: [f, c, h, w], data: rows };
}

const clip = (name) => asRows(io.read(name));
const image = io.read('image');
const text = io.read('text');
const half = text.data.length / 2;
const words = (row) => ({
  dtype: 'f32',
  shape: [1, ...text.shape.slice(1)],
  data: text.data.slice(row * half, (row + 1) * half),
});

const began = performance.now();
const adapters = [
  { name: 'edit', use: 'edit', from: 'edit' },
  { name: 'video', use: 'video', from: 'video' },
  { name: 'look', use: 'lora', from: 'look.safetensors' },
].filter(({ name }) => !without.includes(name));
const stack = await openStack(
  StackFile.parse({ backbone: 'model', adapters }),
  folder,
  new PluginLoader(findPlugins(import.meta.dirname)),
  { frames, onWarning: (warning) => console.log(`warning: ${warning}`) },
);
const model = materialize(stack, { dims: nominalDims });
const runtime = new OrtRuntime(options.threads ? { threads: Number(options.threads) } : {});
const runner = new ModelRunner(model, runtime);
const feeds = (row) => ({
  encoder_hidden_states: words(row),
  ...(without.includes('edit') ? {} : { 'edit.image': image }),
});
const branches = { none: feeds(0), words: feeds(1) };
const shapes = Object.fromEntries(
  Object.entries(branches.none).map(([name, { shape }]) => [name, shape]),
);
const { program } = runner.program({ net: 'unet', dims, shapes });
const opened = (performance.now() - began) / 1000;
const { profile, keep } = program.options;
const before = peak.most();

const { start, steps: all } = ddimPlan(model.schedule, steps, { landing: 'config' });
const from = performance.now();
const cpu = process.cpuUsage();
let guided;
const after = await sample(runner, {
  dims,
  branches,
  guidance: {
    convention: 'uncond+s*delta',
    terms: [{ base: 'none', cond: 'words', scale: guidance }],
  },
  plan: { start, steps: all.slice(0, 1) },
  noise: clip('latents'),
  adjust: (prediction) => (guided = prediction),
});
const seconds = (performance.now() - from) / 1000;
const { user, system } = process.cpuUsage(cpu);
const busy = (user + system) / 1e6;
const most = peak.most();
await peak.close();
await runner.release();

/** The largest difference, as a share of the largest entry. */
function distance(a, b) {
  let [difference, largest] = [0, 0];
  for (let i = 0; i < b.length; i++) {
    if (!Number.isFinite(a[i])) return Infinity;
    difference = Math.max(difference, Math.abs(a[i] - b[i]));
    largest = Math.max(largest, Math.abs(b[i]));
  }
  return difference / largest;
}

const apart = {
  'guided prediction': distance(guided.data, clip('guided').data),
  'after the step': distance(after.data, clip('after').data),
};
const giga = (bytes) => `${(bytes / 1e9).toFixed(2)} GB`;
const versus = (torch, own) =>
  `${own.toFixed(1)}, PyTorch ${torch.toFixed(1)}, PyTorch / ours ${(torch / own).toFixed(2)}`;
const { segments } = program;
const lines = [
  `${segments.length} segments, ${profile}, sessions ${keep ? 'kept' : 'let go after each run'}`,
  `threads: ${options.threads ?? 'as ONNX Runtime chooses'}; PyTorch ${theirs.torch}: ${theirs.threads}`,
  `opened in ${opened.toFixed(1)} s (goal: at most 10), ${giga(before)} anonymous by then`,
  `one step with guidance, ${frames} frames of ${pixels}², in s: ${versus(theirs.seconds, seconds)}; of CPU: ${versus(theirs.busy, busy)}`,
  `anonymous memory at most ${giga(most)} (goal: below 4); PyTorch ${giga(theirs.anonymous)}`,
  ...Object.entries(apart).map(
    ([what, far]) =>
      `${what}: ${far.toExponential(1)} of the largest entry from PyTorch (goal: 1e-3)`,
  ),
];
console.log(lines.join('\n'));
const met = opened <= 10 && most < 4e9 && Object.values(apart).every((far) => far <= 1e-3);
process.exitCode = met ? 0 : 1;
