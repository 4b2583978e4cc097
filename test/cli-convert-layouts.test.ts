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
import {
  f32,
  type NDArray,
  openSafetensors,
  Rng,
  toF32,
  type Weights,
  writeSafetensors,
} from '@attune/engine';
import { relativeError } from '@attune/engine/testing';
import { beforeAll, describe, expect, test } from 'vitest';

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

/** B · A of matrices [out, rank] and [rank, in]. */
function product(up: NDArray, down: NDArray, by = 1): NDArray {
  const [[out, rank], [, into]] = [up.shape, down.shape];
  const [b, a] = [up, down].map((one) => toF32(one).data);
  const data = Array.from({ length: out * into }, (_, i) => {
    let sum = 0;
    for (let k = 0; k < rank; k++)
      sum += b[Math.floor(i / into) * rank + k] * a[k * into + (i % into)];
    return by * sum;
  });
  return f32(data, [out, into]);
}

describe('a LoRA on motion modules as AnimateDiff saves it', () => {
  const [stack, sway] = [join(folder, 'stack.yaml'), join(folder, 'sway.safetensors')];
  const rng = Rng.of(7).fork('sway');
  const layers = new Map<string, { down: NDArray; up: NDArray; by: number }>();

  /** On layers of the motion modules, each of another rank and alpha; also the UNet's own, where asked. */
  function write(path: string, fits: RegExp, more: Readonly<Record<string, NDArray>> = {}): void {
    const tensors: Record<string, NDArray> = { ...more };
    const file = join(folder, 'motion/diffusion_pytorch_model.safetensors');
    for (const [name, { shape }] of tensorsOf(file)) {
      if (!fits.test(name)) continue;
      const layer = name.slice(0, -'.weight'.length);
      const [rank, alpha] = [1 + rng.int(4), 0.5 + 4 * rng.uniform()];
      const down = rng.fork(`${layer} down`).normals([rank, shape[1]]);
      const { data } = rng.fork(`${layer} up`).normals([shape[0], rank]);
      const up = f32(
        data.map((value) => 0.05 * value),
        [shape[0], rank],
      );
      layers.set(layer, { down, up, by: alpha / rank });
      tensors[`unet.${layer}.lora_A.weight`] = down;
      tensors[`unet.${layer}.lora_B.weight`] = up;
      tensors[`unet.${layer}.alpha`] = f32([alpha], []);
    }
    writeSafetensors(path, tensors);
  }

  beforeAll(() => {
    writeFileSync(stack, 'backbone: base\nadapters: [{ use: video, from: motion }]\n');
    write(sway, /attn[12]\.to_(q|k|v|out\.0)\.weight$/);
  });

  test('does the same where its own code puts it, and comes back', () => {
    const there = join(folder, 'sway.animatediff.safetensors');
    const { status, stderr, report } = convert(stack, sway, 'animatediff', there);
    expect([status, stderr]).toEqual([0, '']);
    expect(report).toMatchObject({ kind: 'lora', dialect: 'animatediff' });
    expect(report.error).toBeLessThan(1e-5);
    expect(report.share).toBeLessThan(1e-3);
    expect(report.effect).toBeGreaterThan(0.01);
    const module = join(folder, 'for-sway.safetensors');
    expect(convert(base, join(folder, 'motion'), 'animatediff', module).status).toBe(0);
    const [written, known] = [tensorsOf(there), tensorsOf(module)];
    expect(written.size).toBe(2 * layers.size);
    for (const [key, down] of written) {
      if (key.includes('.up.')) continue;
      // As AnimateDiff's load_diffusers_lora finds the layer; it adds up · down to the weight.
      const target = key
        .replace('processor.', '')
        .replace('_lora', '')
        .replace('down.', '')
        .replace('to_out.', 'to_out.0.');
      expect(known.has(target)).toBe(true);
      const own = target
        .replace('.temporal_transformer', '')
        .replace(/attention_blocks\.(\d)/, (_, k: string) => `attn${Number(k) + 1}`)
        .replace(/\.weight$/, '');
      const { down: a, up: b, by } = layers.get(own)!;
      const change = product(written.get(key.replace('.down.', '.up.'))!, down);
      expect(relativeError(change, product(b, a, by))).toBeLessThan(1e-5);
    }
    const verdict = attune('inspect', there, '--base', stack, '--json');
    expect(JSON.parse(verdict.stdout)).toMatchObject({
      verdict: 'loadable',
      dialect: 'animatediff',
      modules: { matched: layers.size, unmatched: 0, misshaped: 0 },
    });
    const back = convert(stack, there, 'diffusers', join(folder, 'sway.back.safetensors'));
    expect([back.status, back.report.error < 1e-6]).toEqual([0, true]);
    const again = tensorsOf(join(folder, 'sway.back.safetensors'));
    for (const [layer, { down }] of layers)
      expect(again.get(`unet.${layer}.lora_A.weight`)).toEqual(down);
  }, 240_000);

  test('also on spatial attentions, as the adapter of its v3; nothing else has a name there', () => {
    const matrices = (layer: string, into: number, out: number) => ({
      [`unet.${layer}.lora_A.weight`]: rng.fork('A').normals([2, into]),
      [`unet.${layer}.lora_B.weight`]: rng.fork('B').normals([out, 2]),
    });
    const spatial = 'down_blocks.0.attentions.0.transformer_blocks.0.attn2';
    const domain = join(folder, 'domain.safetensors');
    writeSafetensors(domain, matrices(`${spatial}.to_k`, 24, 32));
    const there = join(folder, 'domain.animatediff.safetensors');
    expect(convert(base, domain, 'animatediff', there).status).toBe(0);
    expect([...tensorsOf(there).keys()]).toEqual(
      ['down', 'up'].map((side) => `${spatial}.processor.to_k_lora.${side}.weight`),
    );

    const before = readdirSync(folder).length;
    const feed = join(folder, 'feed.safetensors');
    write(feed, /mid_block.*ff\.net\.2\.weight$/);
    const magnitude = { [`unet.${spatial}.to_k.dora_scale`]: rng.fork('m').normals([32, 1]) };
    const dora = join(folder, 'dora.safetensors');
    writeSafetensors(dora, { ...matrices(`${spatial}.to_k`, 24, 32), ...magnitude });
    for (const [from, on, reason] of [
      [
        feed,
        stack,
        /animatediff has no name for the layer video\.mid_block\S+ff\.net\.2: write it as/,
      ],
      [
        dora,
        base,
        /animatediff has no form for the lora module at unet\.down_blocks\S+ \(dora_scale\)/,
      ],
    ] as const) {
      const { status, stderr } = convert(on, from, 'animatediff', join(folder, 'no.safetensors'));
      expect([status, stderr]).toEqual([2, expect.stringMatching(reason)]);
    }
    expect(readdirSync(folder)).toHaveLength(before + 2);
  }, 120_000);
});

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
