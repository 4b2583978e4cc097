/** Files of the family merged: the model does with one what it did with several. */

import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import {
  compile,
  compose,
  loadModel,
  materialize,
  type Model,
  nominalDims,
  readAdapterFile,
  standingFeeds,
  type Strength,
  type Written,
} from '@attune/core';
import {
  f32,
  type F32Array,
  type NDArray,
  OrtRuntime,
  Rng,
  writeSafetensors,
} from '@attune/engine';
import { relativeError } from '@attune/engine/testing';
import { expect, test } from 'vitest';

import { lora, readLora } from '../src/index.ts';
import { mergeLora } from '../src/merge.ts';
import { dialects } from '../src/write.ts';

const folder = mkdtempSync(join(tmpdir(), 'merge-'));
const base = await loadModel('test/parity/fixtures/unet/pocket');
const runtime = new OrtRuntime({ threads: 1 });
const rng = Rng.of(3);
const attn = 'lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q';
const shapeOf = (layer: string) => base.weights.entry(`unet.${layer}.weight`).shape;
const [width] = shapeOf('down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q');
const [first, channels] = shapeOf('conv_in');

interface Part {
  readonly name: string;
  readonly path: string;
  readonly strength?: Strength;
}

/** A kohya file of tensors with normal entries, by shape. */
function part(
  name: string,
  shapes: Readonly<Record<string, readonly number[]>>,
  strength?: Strength,
  alphas: Readonly<Record<string, number>> = {},
): Part {
  const path = join(folder, `${name}.safetensors`);
  const own = Object.entries(shapes).map(([key, shape]) => {
    const { data } = rng.fork(name, key).normals([...shape]);
    return [
      key,
      f32(
        data.map((x) => 0.3 * x),
        shape,
      ),
    ] as const;
  });
  const given = Object.entries(alphas).map(([key, alpha]) => [key, f32([alpha], [])] as const);
  writeSafetensors(path, Object.fromEntries<NDArray>([...own, ...given]));
  return { name, path, ...(strength === undefined ? {} : { strength }) };
}

const merged = (parts: readonly Part[], dialect: string): Written =>
  mergeLora({
    model: base,
    dialect,
    parts: parts.map(({ path, ...rest }) => ({ ...rest, file: readAdapterFile(path) })),
  });

const adapter = (name: string, path: string, strength?: Strength) =>
  lora({
    name,
    ...(strength === undefined ? {} : { strength }),
    ...readLora(readAdapterFile(path), base),
  });

async function output(model: Model): Promise<F32Array> {
  const whole = materialize(model, { dims: nominalDims });
  const dims = { B: 1, F: 1, H: 8, W: 8, L: 4 };
  const program = compile(whole, { net: 'unet', dims }, { runtime });
  const feeds = standingFeeds(whole, program);
  for (const [name, { shape }] of program.inputs)
    feeds[name] ??= Rng.of(1).fork(name).normals(shape);
  const { sample } = await program.run(feeds);
  await program.release();
  return sample as F32Array;
}

/** How far a merged file is from its parts, and how far the parts are from nothing. */
async function distance(parts: readonly Part[], dialect = 'kohya'): Promise<[number, number]> {
  const { tensors, metadata = {}, folder: layout } = merged(parts, dialect);
  const path = join(mkdtempSync(join(folder, 'out-')), layout?.file ?? 'merged.safetensors');
  writeSafetensors(path, tensors, metadata);
  for (const [name, config] of Object.entries(layout?.configs ?? {}))
    writeFileSync(join(path, '..', name), JSON.stringify(config));
  const stack = compose(base, ...parts.map((one) => adapter(one.name, one.path, one.strength)));
  const want = await output(stack);
  return [
    relativeError(await output(compose(base, adapter('merged', path))), want),
    relativeError(await output(base), want),
  ];
}

const one = part(
  'one',
  {
    [`${attn}.lora_down.weight`]: [2, width],
    [`${attn}.lora_up.weight`]: [width, 2],
    'lora_unet_conv_in.lora_down.weight': [3, channels, 3, 3],
    'lora_unet_conv_in.lora_up.weight': [first, 3, 1, 1],
  },
  { default: 0.7, 'unet.conv_in': -0.4 },
  { [`${attn}.alpha`]: 5, 'lora_unet_conv_in.alpha': 1 },
);
// The same layer, another rank, its matrices stored as a convolution's; and a layer of its own.
const two = part(
  'two',
  {
    [`${attn}.lora_down.weight`]: [4, width, 1, 1],
    [`${attn}.lora_up.weight`]: [width, 4, 1, 1],
    'lora_unet_conv_out.lora_down.weight': [1, first, 3, 3],
    'lora_unet_conv_out.lora_up.weight': [channels, 1, 1, 1],
  },
  1.5,
);
const loha = (strength: number): Part =>
  part(
    'loha',
    {
      [`${attn}.hada_w1_a`]: [width, 2],
      [`${attn}.hada_w1_b`]: [2, width],
      [`${attn}.hada_w2_a`]: [width, 2],
      [`${attn}.hada_w2_b`]: [2, width],
    },
    strength,
  );
const dora = (strength: number): Part =>
  part(
    'dora',
    {
      [`${attn}.lora_down.weight`]: [2, width],
      [`${attn}.lora_up.weight`]: [width, 2],
      [`${attn}.dora_scale`]: [width, 1],
    },
    strength,
  );
const full = (name: string, strength: number): Part =>
  part(
    name,
    { 'lora_unet_conv_in.diff': [first, channels, 3, 3], 'lora_unet_conv_in.diff_b': [first] },
    strength,
  );

// AnimateDiff has names for attentions alone.
const whole = dialects.filter((dialect) => dialect !== 'animatediff');

test('layers that a dialect has no name for are refused', () => {
  expect(() => merged([one, two], 'animatediff')).toThrow(/unet\.conv_in/);
});

test.each(whole)('plain LoRAs side by side, as %s', async (dialect) => {
  const [error, effect] = await distance([one, two], dialect);
  expect(error).toBeLessThan(2e-6);
  expect(effect).toBeGreaterThan(0.01);
});

test('ranks are summed, and the scale is 1', () => {
  const { tensors } = merged([one, two], 'kohya');
  expect(tensors[`${attn}.lora_down.weight`].shape).toEqual([6, width]);
  expect(tensors[`${attn}.alpha`].data[0]).toBe(6);
  expect(tensors['lora_unet_conv_in.lora_up.weight'].shape).toEqual([first, 3, 1, 1]);
});

test('what is alone at its layer keeps its form, times its strength', async () => {
  const tucker = part(
    'tucker',
    {
      'lora_unet_conv_in.lora_down.weight': [2, channels, 1, 1],
      'lora_unet_conv_in.lora_mid.weight': [2, 2, 3, 3],
      'lora_unet_conv_in.lora_up.weight': [first, 2, 1, 1],
    },
    0.5,
  );
  const lokr = part(
    'lokr',
    { [`${attn}.lokr_w1`]: [2, 2], [`${attn}.lokr_w2`]: [width / 2, width / 2] },
    -0.6,
  );
  for (const parts of [[loha(0.3), tucker], [lokr], [dora(1)], [full('x', 0.5), full('y', -2)]]) {
    const [error, effect] = await distance(parts);
    expect(error).toBeLessThan(2e-6);
    expect(effect).toBeGreaterThan(1e-3);
  }
});

test('a LoRA with a bias of its own keeps it, times its strength, where there is a name for it', async () => {
  const biased = part(
    'biased',
    {
      'unet.conv_in.lora_A.weight': [2, channels, 3, 3],
      'unet.conv_in.lora_B.weight': [first, 2, 1, 1],
      'unet.conv_in.lora_B.bias': [first],
    },
    0.5,
  );
  for (const dialect of ['peft', 'diffusers']) {
    const [error, effect] = await distance([biased, full('beside', 0)], dialect);
    expect(error).toBeLessThan(2e-6);
    expect(effect).toBeGreaterThan(1e-3);
  }
  const { folder: layout } = merged([biased], 'peft');
  expect(layout!.configs['adapter_config.json']).toMatchObject({ lora_bias: true });
  expect(merged([one], 'peft').folder!.configs['adapter_config.json']).not.toHaveProperty(
    'lora_bias',
  );
  expect(() => merged([biased], 'kohya')).toThrow(/\(lora_B\.bias\): write it as peft or diffus/);
  expect(() => merged([biased, full('beside', 1)], 'peft')).toThrow(/act there together/);
});

test('what has no exact form is refused', () => {
  for (const [parts, reason] of [
    [[dora(0.5)], /dora sets magnitudes there/],
    [[loha(1), two], /loha \(loha\) and two \(lora\) act there together/],
    [[dora(1), two], /act there together.*convert FILE --rank/],
  ] as const)
    expect(() => merged(parts, 'kohya')).toThrow(reason);
  expect(() => merged([loha(1)], 'peft')).toThrow(/peft has no form for the loha module/);
});
