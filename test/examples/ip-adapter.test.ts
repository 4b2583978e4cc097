/** examples/attune-ip-adapter as a user has it: found by name, named in stacks, against diffusers. */

import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import {
  compile,
  exportTrained,
  findPlugins,
  inventory,
  materialize,
  type Model,
  nominalDims,
  openStack,
  PluginLoader,
  readAdapterFile,
  StackFile,
  standingFeeds,
  surveyAdapter,
  trainableInputs,
} from '@attune/core';
import { checkKind } from '@attune/core/testing';
import {
  type F32Array,
  f32,
  type NDArray,
  OrtRuntime,
  Rng,
  toF32,
  Weights,
  writeSafetensors,
} from '@attune/engine';
import { relativeError } from '@attune/engine/testing';
import { beforeAll, describe, expect, test } from 'vitest';

import { feedsOf, fixtureName, readCase } from '../parity/stack.ts';

const forwardLimit = 5e-5;
const gradientLimit = 5e-4;
const fixtures = resolve('test/parity/fixtures');
const files = `${fixtures}/ip-adapter`;
const others = `${fixtures}/compose/pocket`;

type Entry = Readonly<Record<string, unknown>>;

const loader = new PluginLoader(
  findPlugins('packages/cli', [resolve('examples/attune-ip-adapter')]),
);
const ip: Entry = { use: 'ip-adapter', name: 'ip', train: true };

/** Every weight of every file is asked for, and every parameter is there. */
async function open(...adapters: readonly Entry[]): Promise<Model> {
  const stack = StackFile.parse({ backbone: `${fixtures}/unet/pocket`, adapters });
  return materialize(await openStack(stack, '.', loader), { dims: nominalDims });
}

const runtime = new OrtRuntime({ threads: 1 });

/** The UNet compiled for what is fed, and everything that is fed. */
function build(model: Model, given: Readonly<Record<string, NDArray>>) {
  const clips = given.encoder_hidden_states.shape[0];
  const [rows, , H, W] = given.sample.shape;
  const dims = { B: clips, F: rows / clips, H, W, L: given.encoder_hidden_states.shape[1] };
  const shapes = Object.fromEntries(Object.entries(given).map(([key, { shape }]) => [key, shape]));
  const program = compile(model, { net: 'unet', dims, shapes }, { runtime });
  return { program, feeds: { ...standingFeeds(model, program), ...given } };
}

/** Errors of the prediction and of the worst gradient that the fixture has; all of them must be there. */
async function compare(model: Model, io: ReadonlyMap<string, NDArray>) {
  const { program, feeds } = build(model, feedsOf(io));
  const named = new Set([...trainableInputs(model, program), ...program.inputs.keys()]);
  const wrt = [...named].filter((name) => io.has(fixtureName(model, name)));
  const cotangents = { sample: io.get('cot.sample')! };
  const { outputs, grads } = await program.sweep(wrt).run(feeds, cotangents);
  await program.release();
  const missing = [...io.keys()].filter((key) => key.startsWith('grad.')).length - wrt.length;
  const errors = Object.entries(grads).map(([name, got]) =>
    relativeError(got, io.get(fixtureName(model, name))!),
  );
  return {
    missing,
    forward: relativeError(outputs.sample, io.get('out.sample')!),
    gradient: Math.max(...errors),
    count: errors.length,
  };
}

const scale: Readonly<Record<string, number>> = { base: 0.7, plus: 1, full: 1, stack: 0.6 };

describe('equals diffusers', () => {
  const cases: readonly (readonly [string, string, Entry])[] = [
    ['base', 'base.safetensors', {}],
    ['base', 'base.bin', {}],
    ['plus', 'plus.safetensors', {}],
    ['full', 'full.safetensors', {}],
    ['base_image', 'base.safetensors', { image_encoder: 'image_encoder' }],
    ['plus_image', 'plus.safetensors', { image_encoder: 'image_encoder' }],
  ];
  test.each(cases)('%s from %s: prediction and every gradient', async (name, file, options) => {
    const strength = scale[name.replace('_image', '')];
    const model = await open({ ...ip, ...options, from: `${files}/${file}`, strength });
    const { forward, gradient, missing, count } = await compare(
      model,
      readCase(`${files}/io.${name}.safetensors`),
    );
    expect(forward).toBeLessThan(forwardLimit);
    expect(gradient).toBeLessThan(gradientLimit);
    expect({ missing, enough: count > 2 }).toEqual({ missing: 0, enough: true });
  });

  test('in one stack with edit, video and two LoRAs', async () => {
    const model = await open(...stack);
    const { forward, gradient, missing } = await compare(
      model,
      readCase(`${files}/io.stack.safetensors`),
    );
    expect(forward).toBeLessThan(forwardLimit);
    expect(gradient).toBeLessThan(gradientLimit);
    expect(missing).toBe(0);
  }, 120_000);
});

const stack: readonly Entry[] = [
  { use: 'video', from: `${others}/video` },
  { use: 'edit', from: `${others}/edit` },
  { use: 'lora', name: 'look', from: `${others}/look.safetensors`, train: true },
  { use: 'lora', name: 'sway', from: `${others}/sway.safetensors` },
  { ...ip, from: `${files}/base.safetensors`, strength: 0.6 },
];

describe('what must matter does', () => {
  const scaled = ({ shape, data }: NDArray, by: number): F32Array =>
    f32(
      Float32Array.from(data as Float32Array, (value) => value * by),
      shape,
    );
  const away = async (
    name: string,
    options: Entry,
    change: (feeds: Record<string, NDArray>, model: Model) => void,
  ): Promise<number> => {
    const io = readCase(`${files}/io.${name}.safetensors`);
    const adapters = name === 'stack' ? stack : [{ ...ip, ...options }];
    const model = await open(...adapters);
    const { program, feeds } = build(model, feedsOf(io));
    const all: Record<string, NDArray> = { ...feeds };
    change(all, model);
    const { sample } = await program.run(all);
    await program.release();
    return relativeError(sample, io.get('out.sample')!);
  };
  const base = { from: `${files}/base.safetensors`, strength: 0.7 };
  const plus = { from: `${files}/plus.safetensors` };
  const pictured = { image_encoder: 'image_encoder' };
  const swapped = (feeds: Record<string, NDArray>, a: string, b: string): void => {
    [feeds[a], feeds[b]] = [feeds[b], feeds[a]];
  };
  const key = (address: string): string =>
    `ip.unet.${address}.transformer_blocks.0.attn2.to_k_ip.weight`;

  test.each<readonly [string, string, Entry, (feeds: Record<string, NDArray>) => void]>([
    [
      'another picture',
      'base',
      base,
      (f) => (f['ip.image_embeds'] = scaled(f['ip.image_embeds'], -1)),
    ],
    [
      'another picture',
      'plus',
      plus,
      (f) => (f['ip.image_embeds'] = scaled(f['ip.image_embeds'], -1)),
    ],
    [
      'other pixels',
      'base_image',
      { ...base, ...pictured },
      (f) => (f['ip.image'] = scaled(f['ip.image'], 0.5)),
    ],
    [
      'other pixels',
      'plus_image',
      { ...plus, ...pictured },
      (f) => (f['ip.image'] = scaled(f['ip.image'], 0.5)),
    ],
    ['10 % weaker', 'base', base, (f) => (f['gate.ip'] = scaled(f['gate.ip'], 0.9))],
    ['10 % weaker', 'stack', {}, (f) => (f['gate.ip'] = scaled(f['gate.ip'], 0.9))],
    [
      'other text',
      'plus',
      plus,
      (f) => (f.encoder_hidden_states = scaled(f.encoder_hidden_states, -1)),
    ],
    [
      'keys of the middle in place of an upper block, as counting in the order of the net would have them',
      'base',
      base,
      (f) => swapped(f, key('mid_block.attentions.0'), key('up_blocks.0.attentions.0')),
    ],
  ])('%s (%s)', async (_, name, options, change) => {
    expect(await away(name, options, change)).toBeGreaterThan(20 * forwardLimit);
  });
});

describe('keeps every law', () => {
  test.each([
    ['base', { features: 6 }],
    ['plus', { variant: 'plus', features: 6, width: 64, tokens: 3, layers: 2 }],
    ['base from a picture', { image_encoder: `${files}/image_encoder` }],
    [
      'plus from a picture',
      { variant: 'plus', width: 64, layers: 1, image_encoder: `${files}/image_encoder` },
    ],
  ])(
    '%s',
    async (_, options) => {
      const kind = await loader.get('adapters', 'ip-adapter');
      const findings = await checkKind(kind, options);
      expect(findings.filter(({ ok }) => !ok)).toEqual([]);
      expect(findings.length).toBeGreaterThan(10);
    },
    120_000,
  );
});

describe('files', () => {
  let scratch = '';
  beforeAll(() => {
    scratch = mkdtempSync(join(tmpdir(), 'ip-adapter-'));
  });
  const own = (file: string) => readAdapterFile(`${files}/${file}`);
  /** The base file with some names or values changed. */
  function changed(name: string, change: (all: Record<string, NDArray>) => void): string {
    const { weights } = own('base.safetensors');
    const all = Object.fromEntries(
      [...weights.names()].map((key) => [key, weights.entry(key).load()]),
    );
    change(all);
    const path = join(scratch, name);
    writeSafetensors(path, all);
    return path;
  }

  test('are known for what they are, by their names', async () => {
    const kind = await loader.get('adapters', 'ip-adapter');
    const found = ['base.safetensors', 'base.bin', 'plus.safetensors', 'full.safetensors'].map(
      (file) => kind.detect!(own(file)),
    );
    expect(found.map((one) => one?.algorithm)).toEqual([
      'ip-adapter base',
      'ip-adapter base',
      'ip-adapter plus',
      'ip-adapter full',
    ]);
    expect(kind.detect!(readAdapterFile(`${others}/look.safetensors`))).toBeUndefined();
    const model = await open();
    const survey = surveyAdapter(kind, own('plus.safetensors'), model);
    expect(survey.refusal).toBeUndefined();
    expect(survey.modules.every(({ fit }) => fit === 'matched')).toBe(true);
  });

  test('a trained one is written in the layout it came in', async () => {
    const model = await open({ ...ip, from: `${files}/base.bin` });
    const { params } = inventory(model, nominalDims);
    const trained = Object.fromEntries(
      [...params.keys()]
        .filter((name) => name.startsWith('ip.'))
        .map((name) => [name, toF32(model.weights.entry(name).load()).data]),
    );
    exportTrained(model, trained, scratch, { metadata: {} });
    const again = Weights.fromFile(join(scratch, 'ip.safetensors'));
    const want = own('base.safetensors').weights;
    expect([...again.names()].toSorted()).toEqual([...want.names()].toSorted());
    for (const name of want.names())
      expect(again.entry(name).load()).toEqual(want.entry(name).load());
  });

  test.each<readonly [string, () => Entry, RegExp]>([
    [
      'with a pair too few',
      () => ({
        from: changed('few.safetensors', (all) => {
          delete all['ip_adapter.13.to_k_ip.weight'];
          delete all['ip_adapter.13.to_v_ip.weight'];
        }),
      }),
      /few\.safetensors has keys and values for 6 cross-attentions; the model has 7/,
    ],
    [
      'with half of a pair',
      () => ({
        from: changed('half.safetensors', (all) => delete all['ip_adapter.13.to_v_ip.weight']),
      }),
      /lack.*mid_block.*to_v_ip/,
    ],
    [
      'with a tensor that nothing asks for',
      () => ({
        from: changed(
          'more.safetensors',
          (all) => (all['image_proj.extra.weight'] = Rng.of(1).normals([2])),
        ),
      }),
      /asked for by no layer, first ip\.image_proj\.extra\.weight/,
    ],
    [
      'of FaceID',
      () => ({
        from: changed('face.safetensors', (all) => {
          all['image_proj.proj.0.weight'] = all['image_proj.proj.weight'];
          delete all['image_proj.proj.weight'];
        }),
      }),
      /face\.safetensors is a FaceID adapter/,
    ],
    [
      'whose shapes contradict one another',
      () => ({
        from: changed('odd.safetensors', (all) => {
          all['image_proj.norm.weight'] = Rng.of(1).normals([7]);
        }),
      }),
      /odd\.safetensors: the shapes of image_proj make 13\.7\d* tokens/,
    ],
    [
      'with the encoder of another',
      () => {
        const folder = mkdtempSync(join(scratch, 'encoder-'));
        writeFileSync(join(folder, 'config.json'), JSON.stringify({ projection_dim: 11 }));
        writeSafetensors(join(folder, 'model.safetensors'), {});
        return { from: `${files}/base.safetensors`, image_encoder: folder };
      },
      /gives features of width 11; the adapter reads 10/,
    ],
    [
      'without the encoder that is named',
      () => ({ from: `${files}/base.safetensors`, image_encoder: 'elsewhere' }),
      /elsewhere\/config\.json cannot be read/,
    ],
    [
      'with an option that is none',
      () => ({ from: `${files}/base.safetensors`, token: 3 }),
      /did you mean "tokens"/,
    ],
  ])('%s is refused', async (_, entry, message) => {
    await expect(open({ ...ip, ...entry() })).rejects.toThrow(message);
  });
});
