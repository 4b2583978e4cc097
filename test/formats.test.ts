/** Layouts of adapter files in the wild: each opens as the adapter that diffusers' layout holds. */

import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import {
  findPlugins,
  fromLdm,
  inferUNet,
  inventory,
  ldmLayers,
  loadModel,
  materialize,
  type Model,
  nominalDims,
  openStack,
  PluginLoader,
  readAdapterFile,
  StackFile,
  toLdm,
  unet,
  UNetConfig,
} from '@attune/core';
import { toF32, toHalf, Weights, writeSafetensors, zeros } from '@attune/engine';
import { relativeError } from '@attune/engine/testing';
import { expect, test } from 'vitest';
import type { z } from 'zod';

const fixtures = 'test/parity/fixtures';
const loader = new PluginLoader(findPlugins('packages/cli'));

/** Weights of the last adapter, by its own names, and its config. */
async function opened(backbone: string, ...adapters: readonly Readonly<Record<string, unknown>>[]) {
  const stack = StackFile.parse({ backbone: `${fixtures}/unet/${backbone}`, adapters });
  const model = await openStack(stack, '.', loader);
  const { name, config } = model.adapters[model.adapters.length - 1];
  const own = model.weights.under(`${name}.`);
  const values = Object.fromEntries(
    [...own.names()].toSorted().map((key) => [key, own.entry(key).load()]),
  );
  return { config, values };
}

test('motion modules as AnimateDiff saves them: pickled, wrapped, with a table in every attention', async () => {
  const truth = await opened('sd15', { use: 'video', from: `${fixtures}/compose/sd15/video` });
  const original = await opened('sd15', {
    use: 'video',
    from: `${fixtures}/checkpoints/motion.ckpt`,
    // What no file tells: AnimateDiff's own are 8 and 32.
    motion_num_attention_heads: 4,
    motion_norm_num_groups: truth.config!.motion_norm_num_groups,
  });
  expect(original.values).toEqual(truth.values);
  for (const [key, value] of Object.entries(original.config!))
    expect({ key, value }).toEqual({ key, value: truth.config![key] });
});

test('a ControlNet as its own code saves it: pickled, wrapped, halves', async () => {
  const truth = await opened('sd15', { use: 'edit', from: `${fixtures}/compose/sd15/edit` });
  const original = await opened('sd15', {
    use: 'edit',
    from: `${fixtures}/checkpoints/control.pth`,
    // What no file tells: Stable Diffusion's own are 8 and 32.
    attention_head_dim: 4,
    norm_num_groups: truth.config!.norm_num_groups,
  });
  const { 'class_embedding.weight': tasks, ...values } = truth.values;
  expect(tasks).toBeDefined();
  const halves = Object.entries(values).map(([key, array]) => [key, toHalf(toF32(array), 'f16')]);
  expect(original.values).toEqual(Object.fromEntries(halves));
  const { num_class_embeds: _, ...config } = truth.config!;
  for (const key of Object.keys(original.config!))
    if (key in config)
      expect({ key, value: original.config![key] }).toEqual({ key, value: config[key] });
});

test.each(['difference', 'lora'])('a ControlNet as a change of its base: %s', async (form) => {
  const settings = { attention_head_dim: 4, norm_num_groups: 2 };
  const folder = `${fixtures}/checkpoints`;
  const truth = await opened('sd15', {
    use: 'edit',
    from: `${folder}/control.whole.safetensors`,
    ...settings,
  });
  // Heads and groups come from the base.
  const changed = await opened('sd15', {
    use: 'edit',
    from: `${folder}/control.${form}.safetensors`,
  });
  expect(changed.config).toMatchObject(settings);
  expect(Object.keys(changed.values)).toEqual(Object.keys(truth.values));
  for (const [name, value] of Object.entries(changed.values))
    expect(relativeError(value, truth.values[name])).toBeLessThan(1e-6);
});

/** A LoRA file's tensors under other names, in a file of its own; without those that get none. */
function respelled(from: string, rename: (key: string) => string | undefined): string {
  const { weights, metadata } = readAdapterFile(from);
  const path = join(mkdtempSync(join(tmpdir(), 'spelled-')), 'adapter.safetensors');
  const tensors = Object.fromEntries(
    [...weights.names()].flatMap((key) => {
      const name = rename(key);
      return name === undefined ? [] : [[name, weights.entry(key).load()]];
    }),
  );
  writeSafetensors(path, tensors, metadata);
  return path;
}

const layerOf = (key: string): string => key.replace(/^unet\.|\.lora_[AB]\.weight$/g, '');
const side = (key: string): string => (key.endsWith('lora_A.weight') ? 'down' : 'up');
const layout = { layers: 2, attends: (level: number) => level > 0 };

const processor = (key: string): string =>
  `${layerOf(key).replace(/\.(to_[qkv]|to_out)(\.0)?$/, '.processor.$1_lora')}.${side(key)}.weight`;
const kohya = (prefix: string, name: string, key: string): string =>
  `${prefix}${name.replaceAll('.', '_')}.lora_${side(key)}.weight`;

test.each<[string, (key: string) => string, RegExp]>([
  ['diffusers before 0.19', (key) => `unet.${processor(key)}`, /\.attn/],
  ['the oldest files, without a prefix', processor, /\.attn/],
  ['`.lora.down`', (key) => `unet.${layerOf(key)}.lora.${side(key)}.weight`, /./],
  [
    'PEFT, with the name of its adapter',
    (key) => key.replace(/^unet(.*)\.weight$/, 'base_model.model$1.default.weight'),
    /./,
  ],
  ['kohya', (key) => kohya('lora_unet_', layerOf(key), key), /./],
  [
    'kohya, with the original names of blocks',
    (key) => kohya('lora_unet_', toLdm(layerOf(key), layout)!, key),
    /./,
  ],
  ['standalone LyCORIS', (key) => kohya('lycoris_', layerOf(key), key), /./],
])('a LoRA spelled as in %s', async (_, rename, only) => {
  const path = `${fixtures}/compose/sd15/look.safetensors`;
  const these = (key: string) => (only.test(key) ? key : undefined);
  const truth = await opened('sd15', { use: 'lora', from: respelled(path, these) });
  const other = await opened('sd15', {
    use: 'lora',
    from: respelled(path, (key) => these(key) && rename(key)),
  });
  expect(Object.keys(truth.values).length).toBeGreaterThan(100);
  expect(other.values).toEqual(truth.values);
});

const attention = (key: string) => (/attn[12]\.to/.test(key) ? key : undefined);
const animateDiff = (key: string) =>
  processor(
    key
      .replace('.attn1.', '.attention_blocks.0.')
      .replace('.attn2.', '.attention_blocks.1.')
      .replace(/(motion_modules\.\d+)\./, '$1.temporal_transformer.'),
  );

test('a motion LoRA as AnimateDiff saves it', async () => {
  const path = `${fixtures}/compose/sd15/sway.safetensors`;
  const video = { use: 'video', from: `${fixtures}/compose/sd15/video` };
  const [truth, other] = await Promise.all(
    [attention, (key: string) => attention(key) && animateDiff(key)].map((rename) =>
      opened('sd15', video, { use: 'lora', from: respelled(path, rename) }),
    ),
  );
  expect(Object.keys(truth.values).length).toBeGreaterThan(100);
  expect(other.values).toEqual(truth.values);
});

test('the original UNet has the names that its checkpoints are known for', () => {
  const known = {
    conv_in: 'input_blocks.0.0',
    'time_embedding.linear_2': 'time_embed.2',
    'down_blocks.0.resnets.1.conv_shortcut': 'input_blocks.2.0.skip_connection',
    'down_blocks.0.attentions.0.proj_in': 'input_blocks.1.1.proj_in',
    'down_blocks.0.downsamplers.0.conv': 'input_blocks.3.0.op',
    'mid_block.resnets.1.norm2': 'middle_block.2.out_layers.0',
    'mid_block.attentions.0.norm': 'middle_block.1.norm',
    'up_blocks.0.upsamplers.0.conv': 'output_blocks.2.1.conv',
    'up_blocks.1.upsamplers.0.conv': 'output_blocks.5.2.conv',
    'up_blocks.3.attentions.2.proj_out': 'output_blocks.11.1.proj_out',
    conv_norm_out: 'out.0',
  };
  for (const [name, ldm] of Object.entries(known)) expect(toLdm(name, layout)).toBe(ldm);
});

test('every weight of a UNet has an original name, and comes back from it', async () => {
  const { weights } = await loadModel(`${fixtures}/unet/sd15`);
  const names = [...weights.under('unet.').names()];
  const others = names.map((name) => toLdm(name, layout)!);
  expect(new Set(others).size).toBe(names.length);
  expect(others.map((name) => fromLdm(name, layout.layers))).toEqual(names);
});

test.each([
  ['sd1.ckpt', { unet: 'unet/sd15', vae: 'vae/kl-3', text_encoder: 'clip/quick' }],
  ['sd2.safetensors', { unet: 'unet/sd2', vae: 'vae/kl-2', text_encoder: 'clip/exact' }],
])('a whole Stable Diffusion in its original layout: %s', async (file, truth) => {
  const path = `${fixtures}/checkpoints/${file}`;
  const model = await loadModel(path, { config: `${path.replace(/\.\w+$/, '')}.configs` });
  for (const [part, folder] of Object.entries(truth)) {
    const known = await loadModel(`${fixtures}/${folder}`);
    const [got, want] = [model, known].map(({ weights }) => weights.under(`${part}.`));
    const names = [...want.names()].toSorted();
    expect([...got.names()].toSorted()).toEqual(names);
    for (const name of names)
      expect({ name, ...got.entry(name).load() }).toEqual({ name, ...want.entry(name).load() });
  }
  materialize(model, { dims: nominalDims });
  expect(model.schedule!.config).toMatchObject({ beta_schedule: 'scaled_linear', steps_offset: 1 });
  expect(model.schedule!.predictionType).toBe('epsilon');
  expect(model.tokenizer!.encode('a cat').ids.slice(0, 5)).toEqual([
    49406,
    320,
    2368,
    49407,
    file === 'sd1.ckpt' ? 49407 : 0,
  ]);
});

/** Full-size Stable Diffusion as names and shapes without values, in its original layout. */
function hollow(config: z.input<typeof UNetConfig>): Weights {
  const bare: Model = {
    nets: { unet: unet(UNetConfig.parse(config)) },
    weights: Weights.fromArrays({}),
    adapters: [],
  };
  const { params } = inventory(bare, nominalDims);
  const layers = { layers: 2, attends: (level: number) => level > 0 };
  return Weights.fromEntries(
    [...params.values()].map(({ name, shape }) => {
      const load = () => zeros(shape);
      return [
        toLdm(name.slice(5), layers)!,
        { name, dtype: 'f32', shape, source: undefined, load },
      ];
    }),
  );
}

test.each<[string, z.input<typeof UNetConfig>]>([
  ['1.5', { cross_attention_dim: 768, attention_head_dim: 8 }],
  [
    '2.1',
    { cross_attention_dim: 1024, attention_head_dim: [5, 10, 20, 20], use_linear_projection: true },
  ],
  ['1.5 for inpainting', { cross_attention_dim: 768, attention_head_dim: 8, in_channels: 9 }],
  ['InstructPix2Pix', { cross_attention_dim: 768, attention_head_dim: 8, in_channels: 8 }],
])('names and shapes tell the config of Stable Diffusion %s', (_, config) => {
  const weights = hollow(config);
  const named = weights.renamed((name) => fromLdm(name, ldmLayers(weights))!);
  expect(UNetConfig.parse(inferUNet(named))).toEqual(UNetConfig.parse(config));
});
