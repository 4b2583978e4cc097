/**
 * What `attune inspect` takes for files of more than 4 GB: a whole Stable Diffusion 1.5 in one file, its UNet twice, and a
 * LoRA of every layer. The files are made here, with their real names and shapes and holes for values.
 *
 *   node bench/inspect.mjs [--rounds 5]
 *
 * Prints the least of all rounds, in seconds of the wall and of the CPU (all threads, Node's own start included).
 * Fails where one takes a second of the CPU or more, or where the verdict is not that it loads.
 */

import { spawnSync } from 'node:child_process';
import { closeSync, ftruncateSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

import { ClipTextConfig, clipText, inventory, toLdm, unet, UNetConfig } from '@attune/core';
import { Weights } from '@attune/engine';

const { values: options } = parseArgs({ options: { rounds: { type: 'string', default: '5' } } });
const command = join(import.meta.dirname, '../packages/cli/bin/attune.js');
const goal = 1;

const nets = {
  unet: unet(UNetConfig.parse({ cross_attention_dim: 768, attention_head_dim: 8 })),
  text_encoder: clipText(
    ClipTextConfig.parse({
      vocab_size: 49_408,
      hidden_size: 768,
      intermediate_size: 3072,
      num_hidden_layers: 12,
      num_attention_heads: 12,
      max_position_embeddings: 77,
    }),
  ),
};
const dims = { B: 1, F: 1, H: 64, W: 64, L: 8 };
const bare = { nets, weights: Weights.fromArrays({}), adapters: [] };
const { params, sites } = inventory(bare, dims);
const inside = (name) => name.slice(name.indexOf('.') + 1);
const ofUNet = [...params.values()].filter(({ name }) => name.startsWith('unet.'));
const ofText = [...params.values()].filter(({ name }) => name.startsWith('text_encoder.'));

/** As Stable Diffusion's own code saves it, in 16 bits, with its moving average in 32. */
function checkpoint() {
  const layout = { layers: 2, attends: (level) => level > 0 };
  const original = ofUNet.map(({ name, shape }) => [toLdm(inside(name), layout), shape]);
  return [
    ...original.map(([name, shape]) => [`model.diffusion_model.${name}`, shape]),
    ...original.map(([name, shape]) => [
      `model_ema.diffusion_model${name.replaceAll('.', '')}`,
      shape,
      'F32',
    ]),
    ...ofText.map(({ name, shape }) => [`cond_stage_model.transformer.${inside(name)}`, shape]),
  ];
}

/** As kohya's trainer saves it, every layer of the UNet and of the text encoder, of a rank that makes it 4 GB. */
function lora(rank = 1700) {
  return [...ofUNet, ...ofText].flatMap(({ name, shape }) => {
    const layer = name.replace(/\.weight$/, '');
    if (layer === name || shape.length < 2 || !sites.has(`layer:${layer}`)) return [];
    if (name.includes('embedding')) return [];
    const net = name.startsWith('unet.') ? 'lora_unet' : 'lora_te';
    const module = `${net}_${inside(layer).replaceAll('.', '_')}`;
    const [out, into, ...kernel] = shape;
    return [
      [`${module}.lora_down.weight`, [rank, into, ...kernel]],
      [`${module}.lora_up.weight`, [out, rank, ...kernel.map(() => 1)]],
      [`${module}.alpha`, []],
    ];
  });
}

/** A .safetensors file of these names, shapes and types (default: F16), that takes no room on the disk. */
function write(path, tensors) {
  let end = 0;
  const header = Object.fromEntries(
    tensors.map(([name, shape, dtype = 'F16']) => {
      const from = end;
      end += shape.reduce((a, b) => a * b, dtype === 'F16' ? 2 : 4);
      return [name, { dtype, shape, data_offsets: [from, end] }];
    }),
  );
  const text = JSON.stringify(header);
  const bytes = Buffer.from(text.padEnd(8 * Math.ceil(text.length / 8)));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(bytes.length));
  const file = openSync(path, 'w');
  writeSync(file, length);
  writeSync(file, bytes);
  ftruncateSync(file, 8 + bytes.length + end);
  closeSync(file);
  return { path, tensors: tensors.length, bytes: 8 + bytes.length + end };
}

/** One run of the command: seconds of the wall and of the CPU. */
function inspected(path) {
  const told =
    'process.on("exit", () => { const { user, system } = process.cpuUsage(); process.stderr.write(`cpu ${user + system}\\n`); })';
  const args = ['--import', `data:text/javascript,${encodeURIComponent(told)}`];
  const began = performance.now();
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    [...args, command, 'inspect', path, '--json'],
    { encoding: 'utf8' },
  );
  const wall = (performance.now() - began) / 1000;
  if (status !== 0 || JSON.parse(stdout).verdict !== 'loadable')
    throw new Error(`inspect ${path}: exit ${status}\n${stdout}\n${stderr}`);
  return { wall, cpu: Number(/cpu (\d+)/.exec(stderr)[1]) / 1e6 };
}

const folder = mkdtempSync(join(tmpdir(), 'inspect-'));
try {
  for (const [name, tensors] of [
    ['a whole model in one file', checkpoint()],
    ['a LoRA of every layer', lora()],
  ]) {
    const file = write(join(folder, `${name.replaceAll(' ', '-')}.safetensors`), tensors);
    const runs = Array.from({ length: Number(options.rounds) }, () => inspected(file.path));
    const [wall, cpu] = ['wall', 'cpu'].map((key) => Math.min(...runs.map((run) => run[key])));
    console.log(
      `${name}: ${(file.bytes / 1e9).toFixed(2)} GB, ${file.tensors} tensors: ${wall.toFixed(2)} s, of CPU ${cpu.toFixed(2)} s (goal: below ${goal})`,
    );
    if (cpu >= goal) process.exitCode = 1;
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
