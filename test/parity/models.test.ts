/** UNets, autoencoders and text encoders of every configuration, against diffusers and transformers. */

import { cpSync, mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import {
  compile,
  loadModel,
  type Model,
  standingFeeds,
  unet,
  UNetConfig,
  readPart,
} from '@attune/core';
import { type NDArray, openSafetensors } from '@attune/engine';
import { relativeError, testRuntime } from '@attune/engine/testing';
import { describe, expect, test } from 'vitest';

const fixtures = 'test/parity/fixtures';
const forwardLimit = 5e-5;
const gradientLimit = 5e-4;

interface Outcome {
  /** Largest relative error over outputs, and over gradients. */
  readonly forward: number;
  readonly gradient: number;
}

/** Runs one net on a fixture's inputs and compares whatever outputs and input gradients it holds. */
async function compare(
  model: Model,
  net: string,
  file: string,
  change: (feeds: Record<string, NDArray>) => void = () => {},
): Promise<Outcome> {
  const io = openSafetensors(file);
  const keys = [...io.tensors.keys()];
  const feeds: Record<string, NDArray> = {};
  for (const key of keys)
    if (key.startsWith('in.')) feeds[key.slice(3)] = floatTimes(key, io.read(key));
  const [first] = Object.values(feeds).filter(({ shape }) => shape.length > 1);
  const [, , H = 1, W = 1] = (feeds.sample ?? feeds.pixels ?? feeds.latents ?? first).shape;
  const L = (feeds.encoder_hidden_states ?? feeds.input_ids)?.shape[1] ?? 1;
  const shapes = Object.fromEntries(Object.entries(feeds).map(([key, { shape }]) => [key, shape]));
  const dims = { B: first.shape[0], F: 1, H, W, L };
  const program = compile(model, { net, dims, shapes }, { runtime: testRuntime() });
  const all = { ...standingFeeds(model, program), ...feeds };
  change(all);
  const wrt = keys.flatMap((key) =>
    key.startsWith('grad.') && program.inputs.has(key.slice(5)) ? [key.slice(5)] : [],
  );
  const cotangents = Object.fromEntries(
    keys.flatMap((key) =>
      key.startsWith('cot.') && key.slice(4) in program.outputs
        ? [[key.slice(4), io.read(key)]]
        : [],
    ),
  );
  const { outputs, grads } = await program.sweep(wrt).run(all, cotangents);
  await program.release();
  const worst = (prefix: string, got: Readonly<Record<string, NDArray>>) =>
    Math.max(
      0,
      ...Object.entries(got).flatMap(([name, array]) =>
        io.tensors.has(`${prefix}.${name}`)
          ? [relativeError(array, io.read(`${prefix}.${name}`))]
          : [],
      ),
    );
  return { forward: worst('out', outputs), gradient: worst('grad', grads) };
}

const floatTimes = (key: string, array: NDArray): NDArray =>
  key === 'in.timestep'
    ? {
        dtype: 'f32',
        shape: array.shape,
        data: Float32Array.from(array.data as Float32Array, Number),
      }
    : array;

const scaled = (key: string, by: number) => (feeds: Record<string, NDArray>) => {
  const { shape, data } = feeds[key];
  feeds[key] = { dtype: 'f32', shape, data: (data as Float32Array).map((x) => x * by) };
};

const good = (outcome: Outcome): void => {
  expect(outcome.forward).toBeLessThan(forwardLimit);
  expect(outcome.gradient).toBeLessThan(gradientLimit);
};

/** A part's folder as a model folder. */
function asModel(part: string, name: string): Promise<Model> {
  const folder = mkdtempSync(join(tmpdir(), 'model-'));
  cpSync(part, join(folder, name), { recursive: true });
  return loadModel(folder);
}

describe.each(['sd15', 'sd2', 'pocket', 'ip2p', 'inpaint'])('UNet %s', (name) => {
  const file = `${fixtures}/unet/${name}/io.safetensors`;

  test('prediction and gradients equal the reference', async () => {
    good(await compare(await loadModel(`${fixtures}/unet/${name}`), 'unet', file));
  }, 120_000);

  test('other text, another time and other heads are seen', async () => {
    const model = await loadModel(`${fixtures}/unet/${name}`);
    const text = await compare(model, 'unet', file, scaled('encoder_hidden_states', -1));
    const time = await compare(model, 'unet', file, scaled('timestep', 0.9));
    const config = UNetConfig.parse(readPart(`${fixtures}/unet/${name}/unet`).config);
    const one = { ...model, nets: { unet: unet({ ...config, num_attention_heads: 1 }) } };
    const heads = await compare(one, 'unet', file);
    for (const { forward } of [text, time, heads])
      expect(forward).toBeGreaterThan(20 * forwardLimit);
  }, 120_000);
});

describe.each(['tiny-f4', 'tiny-f8'])('AutoencoderTiny %s', (name) => {
  test('encoder, decoder and gradients equal the reference', async () => {
    const model = await loadModel(`${fixtures}/vae/${name}`);
    good(await compare(model, 'vae_encoder', `${fixtures}/vae/${name}/io.encode.safetensors`));
    good(await compare(model, 'vae_decoder', `${fixtures}/vae/${name}/io.decode.safetensors`));
  });
});

describe.each(['kl-2', 'kl-3'])('AutoencoderKL %s', (name) => {
  const parts = name === 'kl-2' ? ['vae', 'vae_old_names'] : ['vae'];
  test.each(parts)('%s: encoder, decoder and gradients equal the reference', async (part) => {
    const model = await asModel(`${fixtures}/vae/${name}/${part}`, 'vae');
    good(await compare(model, 'vae_encoder', `${fixtures}/vae/${name}/io.encode.safetensors`));
    good(await compare(model, 'vae_decoder', `${fixtures}/vae/${name}/io.decode.safetensors`));
  });
});

describe.each(['quick', 'exact'])('CLIP text model %s', (name) => {
  test.each(['text_encoder', 'text_encoder_wrapped'])('%s equals the reference', async (folder) => {
    const model = await asModel(`${fixtures}/clip/${name}/${folder}`, 'text_encoder');
    good(await compare(model, 'text_encoder', `${fixtures}/clip/${name}/io.safetensors`));
  });
});
