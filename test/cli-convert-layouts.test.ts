/** `attune convert` of motion modules and ControlNets: diffusers' layout and the original code's, both ways. */

import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { edit, EditConfig } from '@attune/adapter-edit';
import { video, VideoConfig } from '@attune/adapter-video';
import { type Adapter, compose, materialize, UNetConfig } from '@attune/core';
import { randomised, tinyDims, tinyModel } from '@attune/core/testing';
import { openSafetensors, type Weights, writeSafetensors } from '@attune/engine';
import { relativeError } from '@attune/engine/testing';
import { beforeAll, expect, test } from 'vitest';

import { attune } from './attune.ts';

const fixtures = 'test/parity/fixtures';
const folder = mkdtempSync(join(tmpdir(), 'layouts-'));
const base = join(folder, 'base');

/** As Stable Diffusion's where no file tells: 8 heads, norms of 32 groups. */
const unet = UNetConfig.parse({
  block_out_channels: [32, 64],
  down_block_types: ['CrossAttnDownBlock2D', 'DownBlock2D'],
  up_block_types: ['UpBlock2D', 'CrossAttnUpBlock2D'],
  layers_per_block: 1,
  cross_attention_dim: 24,
});
const motion = VideoConfig.parse({
  block_out_channels: [32, 64],
  motion_layers_per_block: 1,
  motion_max_seq_length: 6,
});

const control = EditConfig.parse({ ...unet, conditioning_embedding_out_channels: [4, 6, 8] });

/** A folder as diffusers saves it. */
function save(path: string, weights: Weights, config: object): void {
  mkdirSync(path, { recursive: true });
  const tensors = [...weights.names()].map((name) => [name, weights.entry(name).load()] as const);
  writeSafetensors(join(path, 'diffusion_pytorch_model.safetensors'), tensors);
  writeFileSync(join(path, 'config.json'), JSON.stringify(config));
}

beforeAll(() => {
  const model = tinyModel({ config: unet });
  save(join(base, 'unet'), model.weights.under('unet.'), {
    _class_name: 'UNet2DConditionModel',
    ...unet,
  });
  const add = (adapter: Adapter) => {
    const whole = randomised(materialize(compose(model, adapter), { dims: tinyDims }), 3);
    const { name, config } = adapter;
    save(join(folder, name), whole.weights.under(`${name}.`), config!);
  };
  add(video({ name: 'motion', config: motion }));
  add(edit({ name: 'control', config: control }));
});

function convert(on: string, from: string, to: string, out: string) {
  const args = ['--base', on, '--to', to, '-o', out, '--json'];
  const { status, stdout, stderr } = attune('convert', from, ...args);
  return { status, stderr, report: status === 0 ? JSON.parse(stdout) : undefined };
}

const tensorsOf = (path: string) => {
  const file = openSafetensors(path);
  return new Map([...file.tensors.keys()].map((name) => [name, file.read(name)]));
};

/** There and back; the names of what was written there. */
function roundTrip(from: string, dialect: string): string[] {
  const [there, back] = [join(folder, `${dialect}.safetensors`), join(folder, `${dialect}.back`)];
  for (const [source, to, out] of [
    [from, dialect, there],
    [there, 'diffusers', back],
  ]) {
    const { status, stderr, report } = convert(base, source, to, out);
    expect([status, stderr]).toEqual([0, '']);
    expect(report.error).toBeLessThan(1e-6);
    expect(report.effect).toBeGreaterThan(0.01);
  }
  const name = 'diffusion_pytorch_model.safetensors';
  const [before, after] = [from, back].map((path) => tensorsOf(join(path, name)));
  for (const [key, value] of before) expect({ key, ...after.get(key) }).toEqual({ key, ...value });
  const own = [...after.keys()].filter((key) => !before.has(key));
  expect(own.filter((key) => !key.endsWith('.pos_embed.pe'))).toEqual([]);
  expect(existsSync(join(back, 'config.json'))).toBe(true);
  return [...tensorsOf(there).keys()];
}

test('motion modules as AnimateDiff names them, and back', () => {
  const names = roundTrip(join(folder, 'motion'), 'animatediff');
  const block = 'up_blocks.1.motion_modules.0.temporal_transformer.transformer_blocks.0';
  const expected = [
    `${block}.attention_blocks.0.to_q.weight`,
    `${block}.attention_blocks.0.pos_encoder.pe`,
    `${block}.attention_blocks.1.pos_encoder.pe`,
    `${block}.norms.1.bias`,
    `${block}.ff_norm.weight`,
    `${block}.ff.net.0.proj.weight`,
    'mid_block.motion_modules.0.temporal_transformer.proj_in.weight',
  ];
  expect(names).toEqual(expect.arrayContaining(expected));
  expect(names.filter((name) => /\.attn[12]\.|pos_embed|norm[123]\./.test(name))).toEqual([]);
  const { config } = JSON.parse(
    `{"config":${readFileSync(join(folder, 'animatediff.back/config.json'), 'utf8')}}`,
  );
  expect(config).toMatchObject({ _class_name: 'MotionAdapter', motion_max_seq_length: 6 });
}, 240_000);

test("a ControlNet in its own code's layout, and back", () => {
  const names = roundTrip(join(folder, 'control'), 'ldm');
  expect(names.every((name) => name.startsWith('control_model.'))).toBe(true);
  const expected = [
    'input_hint_block.0.weight',
    'input_hint_block.8.bias',
    'input_hint_block.10.weight',
    'zero_convs.3.0.weight',
    'middle_block_out.0.bias',
    'middle_block.1.transformer_blocks.0.attn2.to_k.weight',
    'input_blocks.2.0.op.weight',
    'time_embed.2.weight',
  ].map((name) => `control_model.${name}`);
  expect(names).toEqual(expect.arrayContaining(expected));
}, 240_000);

test('a ControlNet that is a difference from its base is written whole', () => {
  const out = join(folder, 'whole');
  const from = `${fixtures}/checkpoints/control.difference.safetensors`;
  const { status, report } = convert(`${fixtures}/unet/sd15`, from, 'diffusers', out);
  expect([status, report.error < 1e-6]).toEqual([0, true]);
  const whole = tensorsOf(join(out, 'diffusion_pytorch_model.safetensors'));
  for (const [name, value] of tensorsOf(`${fixtures}/checkpoints/control.whole.safetensors`))
    expect(relativeError(whole.get(name)!, value)).toBeLessThan(1e-6);
}, 120_000);

test('what a layout without a config would be read as is refused, and nothing is left', () => {
  const pocket = `${fixtures}/unet/pocket`;
  const before = readdirSync(folder);
  const cases = [
    ['video', 'animatediff', /read with motion_num_attention_heads 8; that of .* is \[2,4,3\]/],
    ['edit', 'ldm', /read with norm_num_groups 32; that of .* is 4: keep it in diffusers/],
    ['edit', 'animatediff', /is a edit, which cannot be written as animatediff; known: ldm, diff/],
  ] as const;
  for (const [name, to, reason] of cases) {
    const from = `${fixtures}/compose/pocket/${name}`;
    const { status, stderr } = convert(pocket, from, to, join(folder, 'none'));
    expect(status).toBe(2);
    expect(stderr).toMatch(reason);
    expect(stderr.trim().split('\n')).toHaveLength(1);
  }
  expect(readdirSync(folder)).toEqual(before);
}, 120_000);
