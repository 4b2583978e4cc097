/** UNets, autoencoders and text encoders of every configuration, against diffusers and transformers. */

import { cpSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import {
  compose,
  loadModel,
  type Model,
  standingFeeds,
  traceModel,
  unet,
  UNetConfig,
  readPart,
} from '@attune/core';
import { f32, i64, mul, type NDArray, openSafetensors, Program, type Tensor } from '@attune/engine';
import { relativeError, testRuntime } from '@attune/engine/testing';
import { describe, expect, test } from 'vitest';

const fixtures = 'test/parity/fixtures';
const forwardLimit = 5e-5;
const gradientLimit = 5e-4;

type Build = Parameters<typeof traceModel>[2];

/** A fixture and what it holds computed: one net, or what `build` makes of some. */
function open(model: Model, net: string | Build, file: string) {
  const io = openSafetensors(file);
  const keys = [...io.tensors.keys()];
  const given: Record<string, NDArray> = {};
  for (const key of keys)
    if (key.startsWith('in.')) given[key.slice(3)] = floatTimes(key, io.read(key));
  const [first] = Object.values(given).filter(({ shape }) => shape.length > 1);
  const [, , H = 1, W = 1] = (given.sample ?? given.pixels ?? given.latents ?? first).shape;
  const L = (given.encoder_hidden_states ?? given.input_ids)?.shape[1] ?? 1;
  const shapes = Object.fromEntries(Object.entries(given).map(([key, { shape }]) => [key, shape]));
  const dims = { B: first.shape[0], F: 1, H, W, L };
  const build = typeof net === 'string' ? (run: Parameters<Build>[0]) => run(net) : net;
  const { traced } = traceModel(model, { dims, shapes }, build);
  const program = new Program(traced, { runtime: testRuntime(), weights: model.weights });
  return { io, keys, program, feeds: { ...standingFeeds(model, program), ...given } };
}

interface Outcome {
  /** Largest relative error over outputs, and over gradients. */
  readonly forward: number;
  readonly gradient: number;
  /** Which tensors of the fixture were compared, and which it holds to compare. */
  readonly compared: readonly string[];
  readonly known: readonly string[];
}

/** Runs a net on a fixture's inputs and compares the outputs and gradients that it holds. */
async function compare(
  model: Model,
  net: string | Build,
  file: string,
  change: Change = () => {},
): Promise<Outcome> {
  const { io, keys, program, feeds } = open(model, net, file);
  change(feeds);
  const wrt = [...program.inputs.keys()].filter((name) => io.tensors.has(gradientOf(name)));
  const cotangents = Object.fromEntries(
    Object.keys(program.outputs).map((name) => [name, io.read(`cot.${name}`)]),
  );
  const { outputs, grads } = await program.sweep(wrt).run(feeds, cotangents);
  await program.release();
  const compared: string[] = [];
  const worst = (got: Readonly<Record<string, NDArray>>, keyOf: (name: string) => string) =>
    Math.max(
      0,
      ...Object.entries(got).map(([name, array]) => {
        compared.push(keyOf(name));
        return relativeError(array, io.read(keyOf(name)));
      }),
    );
  return {
    forward: worst(outputs, (name) => `out.${name}`),
    gradient: worst(grads, gradientOf),
    compared: compared.toSorted(),
    known: keys.filter((key) => /^(out|grad)\./.test(key)).toSorted(),
  };
}

/** A gradient's name in the fixtures, which leave out CLIP's wrapper. */
const gradientOf = (name: string): string => `grad.${name.replace('.text_model.', '.')}`;

const floatTimes = (key: string, array: NDArray): NDArray =>
  key === 'in.timestep'
    ? f32(Float32Array.from(array.data as Float32Array, Number), array.shape)
    : array;

type Change = (feeds: Record<string, NDArray>) => void;

const scaled =
  (key: string, by: number): Change =>
  (feeds) => {
    const { shape, data } = feeds[key];
    feeds[key] = f32(
      (data as Float32Array).map((x) => x * by),
      shape,
    );
  };

/** All that the fixture holds was compared, at least `least` tensors, and is right. */
const good = ({ forward, gradient, compared, known }: Outcome, least = 2): void => {
  expect(compared).toEqual(known);
  expect(known.length).toBeGreaterThanOrEqual(least);
  expect(forward).toBeLessThan(forwardLimit);
  expect(gradient).toBeLessThan(gradientLimit);
};

/** How far a change that matters moves the outputs, at least. */
const seen = 20 * forwardLimit;

/** How far the outputs move from the reference for each change of what is fed, all parameters included. */
async function moves(
  model: Model,
  net: string,
  file: string,
  changes: (names: readonly string[]) => Readonly<Record<string, Change>>,
): Promise<Record<string, number>> {
  const { io, program, feeds } = open({ ...model, train: ['**'] }, net, file);
  const far: Record<string, number> = {};
  for (const [name, change] of Object.entries(changes([...program.inputs.keys()]))) {
    const fed = { ...feeds };
    change(fed);
    const outputs = Object.entries(await program.run(fed));
    far[name] = Math.max(...outputs.map(([key, y]) => relativeError(y, io.read(`out.${key}`))));
  }
  await program.release();
  return far;
}

/** Each of these inputs and parameters a tenth smaller. */
const tenthOff = (names: readonly string[]): Record<string, Change> =>
  Object.fromEntries(names.map((key) => [key, scaled(key, 0.9)]));

const unseen = (far: Readonly<Record<string, number>>): string[] =>
  Object.keys(far).filter((key) => far[key] <= seen);

/** A part's folder as a model folder, with changes to its config. */
function asModel(part: string, name: string, changes = {}): Promise<Model> {
  const folder = mkdtempSync(join(tmpdir(), 'model-'));
  cpSync(part, join(folder, name), { recursive: true });
  const file = join(folder, name, 'config.json');
  const config = JSON.parse(readFileSync(file, 'utf8')) as object;
  writeFileSync(file, JSON.stringify({ ...config, ...changes }));
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

describe.each(['tiny-f4', 'tiny-f8', 'kl-2', 'kl-3'])('autoencoder %s', (name) => {
  const parts = name === 'kl-2' ? ['vae', 'vae_old_names'] : ['vae'];
  const folder = `${fixtures}/vae/${name}`;

  test.each(parts)('%s: encoder, decoder and gradients equal the reference', async (part) => {
    const model = await asModel(`${folder}/${part}`, 'vae');
    good(await compare(model, 'vae_encoder', `${folder}/io.encode.safetensors`));
    good(await compare(model, 'vae_decoder', `${folder}/io.decode.safetensors`));
  });

  test.each(['encode', 'decode'])(
    '%s: a tenth off what is fed or any parameter is seen',
    async (what) => {
      const file = `${folder}/io.${what}.safetensors`;
      const far = await moves(await loadModel(folder), `vae_${what}r`, file, tenthOff);
      expect(Object.keys(far).length).toBeGreaterThan(30);
      expect(unseen(far)).toEqual(name.startsWith('kl') ? [keyBias(`vae.${what}r`)] : []);
    },
  );
});

const reconstruct: Build = (run) => {
  const { latents } = run('vae_encoder');
  return run('vae_decoder', { latents });
};

/** Softmax cancels the bias of an attention's keys. */
const keyBias = (net: string): string => `${net}.mid_block.attentions.0.to_k.bias`;

test('AutoencoderTiny, both ways at once: every parameter’s gradient', async () => {
  const model = { ...(await loadModel(`${fixtures}/vae/tiny-f4`)), train: ['vae.**'] };
  good(await compare(model, reconstruct, `${fixtures}/vae/tiny-f4/io.params.safetensors`), 70);
});

test.each(['kl-2', 'kl-3'])(
  'AutoencoderKL %s: other groups in the norms are seen',
  async (name) => {
    const folder = `${fixtures}/vae/${name}`;
    const model = await asModel(`${folder}/vae`, 'vae', { norm_num_groups: 2 });
    for (const what of ['encode', 'decode']) {
      const { forward } = await compare(model, `vae_${what}r`, `${folder}/io.${what}.safetensors`);
      expect(forward).toBeGreaterThan(seen);
    }
  },
);

describe.each(['quick', 'exact'])('CLIP text model %s', (name) => {
  const folder = `${fixtures}/clip/${name}`;
  const file = `${folder}/io.safetensors`;

  test.each(['text_encoder', 'text_encoder_wrapped'])(
    '%s: states and every gradient equal the reference',
    async (part) => {
      const model = await asModel(`${folder}/${part}`, 'text_encoder');
      const { composed, build } = penultimate({ ...model, train: ['text_encoder.**'] });
      good(await compare(composed, build, file), 52);
    },
  );

  test('a tenth off any parameter and another text are seen', async () => {
    const model = await loadModel(folder);
    const far = await moves(model, 'text_encoder', file, (names) => {
      const { input_ids: _, ...params } = tenthOff(names);
      return { ...params, 'another token': otherToken };
    });
    expect(Object.keys(far).length).toBeGreaterThan(50);
    expect(unseen(far).every((key) => key.endsWith('.k_proj.bias'))).toBe(true);
    expect(unseen(far).length).toBe(3);
  });

  test.each([
    { num_attention_heads: name === 'quick' ? 3 : 4 },
    { num_attention_heads: 1 },
    { hidden_act: name === 'quick' ? 'gelu' : 'quick_gelu' },
    { eos_token_id: name === 'quick' ? 93 : 2 },
    { layer_norm_eps: 1e-2 },
  ])('%o is seen', async (changes) => {
    const model = await asModel(`${folder}/text_encoder`, 'text_encoder', changes);
    const far = await moves(model, 'text_encoder', file, () => ({ config: () => {} }));
    expect(far.config).toBeGreaterThan(seen);
  });
});

/** A text encoder that also gives the states before its last layer, as a tap on that layer sees them. */
function penultimate(model: Model): { composed: Model; build: Build } {
  let states: Tensor | undefined;
  const composed = compose(model, {
    name: 'look',
    attach: () => [
      {
        at: 'layer:text_encoder.text_model.encoder.layers.2.layer_norm1',
        delta: (value, { layer }) => {
          states = layer!.x;
          return mul(value, 0);
        },
      },
    ],
  });
  const build: Build = (run) => ({
    ...run('text_encoder'),
    penultimate_hidden_state: states!,
  });
  return { composed, build };
}

/** The second word of the first text replaced. */
const otherToken: Change = (feeds) => {
  const { shape, data } = feeds.input_ids;
  const ids = Array.from(data as BigInt64Array, Number);
  feeds.input_ids = i64(ids.with(1, (ids[1] % 80) + 2), shape);
};
