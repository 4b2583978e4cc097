/** examples/attune-ip-adapter as a user has it: found by name, named in stacks, against diffusers. */

import { type Model, trainableInputs } from '@attune/core';
import { checkKind } from '@attune/core/testing';
import { type F32Array, f32, type NDArray } from '@attune/engine';
import { relativeError } from '@attune/engine/testing';
import { describe, expect, test } from 'vitest';

import { feedsOf, fixtureName, readCase } from '../parity/stack.ts';
import { build, type Entry, files, ip, loader, open, others } from './ip-adapter.ts';

const forwardLimit = 5e-5;
const gradientLimit = 5e-4;
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

  test('two of them, each with its own picture', async () => {
    const face = { ...ip, name: 'face', from: `${files}/plus.safetensors`, strength: 0.5 };
    const model = await open({ ...ip, from: `${files}/base.safetensors`, strength: 0.7 }, face);
    const io = readCase(`${files}/io.two.safetensors`);
    const { forward, gradient, missing } = await compare(model, io);
    expect(forward).toBeLessThan(forwardLimit);
    expect(gradient).toBeLessThan(gradientLimit);
    expect(missing).toBe(0);
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

const scaled = ({ shape, data }: NDArray, by: number): F32Array =>
  f32(
    Float32Array.from(data as Float32Array, (value) => value * by),
    shape,
  );

const swapped = (feeds: Record<string, NDArray>, a: string, b: string): void => {
  [feeds[a], feeds[b]] = [feeds[b], feeds[a]];
};
const key = (address: string): string =>
  `ip.unet.${address}.transformer_blocks.0.attn2.to_k_ip.weight`;

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

describe('what must matter does', () => {
  const base = { from: `${files}/base.safetensors`, strength: 0.7 };
  const plus = { from: `${files}/plus.safetensors` };
  const pictured = { image_encoder: 'image_encoder' };
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
    300_000,
  );
});
