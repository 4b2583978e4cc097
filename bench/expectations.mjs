/**
 * What a full-size stack costs: weights, and the work of one call, counted from traced shapes. Nothing is run.
 *
 *   node bench/expectations.mjs [--frames 16] [--pixels 512] [--steps 20] [--rank 16]
 */

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

import {
  findPlugins,
  inventory,
  nominalDims,
  openStack,
  PluginLoader,
  StackFile,
  traceNet,
} from '@attune/core';
import { ancestors, flops, isLeaf } from '@attune/engine';

const { values } = parseArgs({
  options: {
    frames: { type: 'string', default: '16' },
    pixels: { type: 'string', default: '512' },
    steps: { type: 'string', default: '20' },
    rank: { type: 'string', default: '16' },
  },
});
const [frames, pixels, steps, rank] = ['frames', 'pixels', 'steps', 'rank'].map((name) =>
  Number(values[name]),
);
const side = pixels / 8;

/** The configs of Stable Diffusion 1.5; keys left out are the classes' own defaults. */
const configs = {
  unet: { _class_name: 'UNet2DConditionModel', cross_attention_dim: 768, sample_size: 64 },
  vae: {
    _class_name: 'AutoencoderKL',
    block_out_channels: [128, 256, 512, 512],
    down_block_types: Array.from({ length: 4 }, () => 'DownEncoderBlock2D'),
    up_block_types: Array.from({ length: 4 }, () => 'UpDecoderBlock2D'),
    layers_per_block: 2,
  },
  text_encoder: {
    architectures: ['CLIPTextModel'],
    hidden_size: 768,
    intermediate_size: 3072,
    num_attention_heads: 12,
  },
};
const edit = { use: 'edit', cross_attention_dim: 768 };
const video = { use: 'video' };
const look = { name: 'look', use: 'lora', rank, train: true };

const folder = mkdtempSync(join(tmpdir(), 'attune-bench-'));
for (const [part, config] of Object.entries(configs)) {
  mkdirSync(join(folder, part));
  writeFileSync(join(folder, part, 'config.json'), JSON.stringify(config));
}

const loader = new PluginLoader(findPlugins(import.meta.dirname));
const open = (adapters) =>
  openStack(StackFile.parse({ backbone: folder, adapters }), folder, loader, { fresh: true });

const size = (shape) => shape.reduce((a, b) => a * b, 1);

/** Values by the first part of their names. */
function parameters(model) {
  const count = {};
  for (const { name, shape } of inventory(model, nominalDims).params.values()) {
    const owner = name.slice(0, name.indexOf('.'));
    count[owner] = (count[owner] ?? 0) + size(shape);
  }
  return count;
}

const kinds = { conv2d: 'conv', matmul: 'matmul', gemm: 'matmul', attend: 'attention' };

/** Operations of one call of a net by kind, and the bytes of the largest value that it holds. */
function work(model, net, dims) {
  const { traced } = traceNet(model, {
    net,
    dims: { B: 1, F: 1, H: side, W: side, L: 77, ...dims },
  });
  const done = { conv: 0, matmul: 0, attention: 0, largest: 0 };
  const nodes = ancestors(Object.values(traced.outputs));
  // Queries times keys is the matmul behind the probabilities that attention reads.
  const scores = new Set(
    nodes.flatMap((node) => {
      if (node.op.name !== 'attend') return [];
      const behind = ancestors([node.inputs[3]], new Set(node.inputs.slice(0, 3)));
      return behind.filter(({ op }) => op.name === 'matmul').slice(-1);
    }),
  );
  for (const node of nodes) {
    if (isLeaf(node)) continue;
    const kind = scores.has(node) ? 'attention' : kinds[node.op.name];
    if (kind) done[kind] += flops(node);
    done.largest = Math.max(done.largest, 4 * node.size);
  }
  return { ...done, total: done.conv + done.matmul + done.attention };
}

const tera = (n) => (n / 1e12).toFixed(2);
const line = (cells) => `| ${cells.join(' | ')} |`;
const table = (head, rows) => {
  console.log([line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n'), '\n');
};

try {
  const models = {
    backbone: await open([]),
    'backbone + edit': await open([edit]),
    'backbone + video': await open([video]),
    'backbone + edit + video': await open([edit, video]),
    [`backbone + edit + video + LoRA (rank ${rank})`]: await open([edit, video, look]),
  };
  const whole = Object.values(models).at(-1);
  const counts = parameters(whole);
  table(
    ['weights', 'values', 'f32', 'f16'],
    [...Object.entries(counts), ['all', Object.values(counts).reduce((a, b) => a + b)]].map(
      ([name, count]) => [
        name,
        `${(count / 1e6).toFixed(1)} M`,
        `${((4 * count) / 2 ** 30).toFixed(2)} GiB`,
        `${((2 * count) / 2 ** 30).toFixed(2)} GiB`,
      ],
    ),
  );
  const calls = Object.entries(models).flatMap(([name, model]) =>
    [1, ...(name.includes('video') ? [frames] : [])].map((F) => [
      name,
      F,
      work(model, 'unet', { F }),
    ]),
  );
  table(
    [`one call at ${pixels}²`, 'frames', 'TFLOP', 'conv', 'matmul', 'attention', 'largest value'],
    calls.map(([name, F, { total, conv, matmul, attention, largest }]) => [
      name,
      F,
      tera(total),
      ...[conv, matmul, attention].map((part) => `${((100 * part) / total).toFixed(0)} %`),
      `${(largest / 2 ** 20).toFixed(0)} MiB`,
    ]),
  );
  const { backbone } = models;
  const others = ['text_encoder', 'vae_encoder', 'vae_decoder'].map((net) => [
    net,
    work(backbone, net, net === 'vae_encoder' ? { H: pixels, W: pixels } : {}),
  ]);
  table(
    ['once a picture', 'TFLOP', 'largest value'],
    others.map(([name, { total, largest }]) => [
      name,
      tera(total),
      `${(largest / 2 ** 20).toFixed(0)} MiB`,
    ]),
  );
  const rates = [0.1, 1, 10, 100];
  const [, vaeIn, vaeOut] = others.map(([, { total }]) => total);
  const call = (name, F) =>
    calls.find(([own, count]) => own.startsWith(name) && count === F)[2].total;
  const cost = (name, F, branches) => steps * branches * call(name, F) + F * (vaeIn + vaeOut);
  // Three steps of the student, its backward pass twice as much and its forward pass once more (remat);
  // of each of two teachers a call with guidance.
  const distillation = () =>
    3 * 4 * call('backbone + edit + video + LoRA', frames) +
    2 * call('backbone + video', frames) +
    2 * frames * call('backbone + edit', 1);
  // Words and source image guided apart: three calls a step; words alone: two.
  const jobs = [
    ['a picture from words', cost('backbone', 1, 2)],
    ['a picture edited', cost('backbone + edit', 1, 3)],
    [`${frames} frames edited, with a LoRA`, cost('backbone + edit + video + LoRA', frames, 3)],
    [`${frames} frames in a step of distillation`, distillation()],
  ];
  table(
    [
      `at ${pixels}², ${steps} sampling steps`,
      'TFLOP',
      ...rates.map((rate) => `at ${rate} TFLOP/s`),
    ],
    jobs.map(([name, total]) => [
      name,
      (total / 1e12).toFixed(0),
      ...rates.map((rate) => duration(total / 1e12 / rate)),
    ]),
  );
} finally {
  rmSync(folder, { recursive: true, force: true });
}

function duration(seconds) {
  if (seconds < 90) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  return seconds < 5400 ? `${(seconds / 60).toFixed(0)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
