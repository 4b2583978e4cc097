/**
 * Whole models in one file, over random UNets and autoencoders: names of the original code, whose decoder counts
 * its levels from the other end, and the old names of an autoencoder's attention. Every net does what it does
 * from diffusers' folder.
 */

import { cpSync } from 'node:fs';

import { loadModel, type Model } from '@attune/core';
import { f32, i64, type NDArray, Rng, writeSafetensors } from '@attune/engine';
import { relativeError } from '@attune/engine/testing';
import { expect, test } from 'vitest';

import { original, originalVae, places } from './original-names.ts';
import { torchSave } from './torch-save.ts';
import {
  at,
  damaged,
  effect,
  modelFolder,
  opened,
  randomUNet,
  type Tensors,
  verdictOn,
  writeWeights,
} from './wholes.ts';

/** What a file without a config is taken for has these. */
const told = { norm_num_groups: 32, attention_head_dim: 8, cross_attention_dim: 64 };
const text_encoder = {
  vocab_size: 16,
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 2,
  num_attention_heads: 1,
  max_position_embeddings: 8,
  hidden_act: 'gelu',
  eos_token_id: 2,
};

function randomVae(rng: Rng) {
  const widths = Array.from({ length: 1 + rng.int(3) }, (_, i) => 32 * (1 + rng.fork(i).int(2)));
  const quantised = rng.uniform() < 0.5;
  return {
    block_out_channels: widths,
    down_block_types: widths.map(() => 'DownEncoderBlock2D'),
    up_block_types: widths.map(() => 'UpDecoderBlock2D'),
    layers_per_block: 1 + rng.int(2),
    latent_channels: 4,
    use_quant_conv: quantised,
    use_post_quant_conv: quantised,
  };
}

async function scene(name: string, rng: Rng) {
  const { attends, layers, config: unet } = randomUNet(rng, { unit: 32, more: told });
  const vae = randomVae(rng.fork('vae'));
  const own = await modelFolder(name, rng.fork('weights'), { unet, vae, text_encoder });
  return { ...own, known: places(attends, layers), levels: vae.block_out_channels.length };
}

type Scene = Awaited<ReturnType<typeof scene>>;

/** Attention of an autoencoder as diffusers named it before 0.17. */
const oldAttention = (name: string): string =>
  name
    .replace('.to_q.', '.query.')
    .replace('.to_k.', '.key.')
    .replace('.to_v.', '.value.')
    .replace('.to_out.0.', '.proj_attn.');

/** Attention's projections are convolutions there. */
const pointwise = (name: string, array: NDArray): NDArray =>
  /attn_1\.(q|k|v|proj_out)\.weight$/.test(name)
    ? { ...array, shape: [...array.shape, 1, 1] }
    : array;

const vaes: Readonly<Record<string, (name: string, levels: number) => string>> = {
  'the original names': (name, levels) => `first_stage_model.${originalVae(name, levels)}`,
  'the original names under `vae.`': (name, levels) => `vae.${originalVae(name, levels)}`,
  'the old names of diffusers': (name) => `first_stage_model.${oldAttention(name)}`,
};

/** The names in the file of a model's weights, by the names here. */
function filed(rng: Rng, { weights, known, levels }: Scene, vae: string): Map<string, string> {
  const wrap = rng.uniform() < 0.5 ? '' : 'text_model.';
  return new Map(
    Object.keys(weights).map((name) => {
      const own = name.slice(name.indexOf('.') + 1);
      if (name.startsWith('unet.')) return [name, `model.diffusion_model.${original(own, known)!}`];
      if (name.startsWith('vae.')) return [name, vaes[vae](own, levels)];
      return [name, `cond_stage_model.transformer.${own.replace('text_model.', wrap)}`];
    }),
  );
}

const nets = ['unet', 'vae_encoder', 'vae_decoder', 'text_encoder'];
const words = { input_ids: i64([0, 5, 9, 3, 1], [1, 5]) };

async function effects(model: Model): Promise<NDArray[]> {
  const all: NDArray[] = [];
  for (const net of nets) all.push(await effect(model, net, net === 'text_encoder' ? words : {}));
  return all;
}

async function alike(got: Model, want: Model): Promise<void> {
  const [one, other] = [await effects(got), await effects(want)];
  for (const i of nets.keys()) expect(relativeError(one[i], other[i])).toBe(0);
}

test.each(Object.keys(vaes))('3 files whose autoencoder has %s', async (vae) => {
  for (let k = 0; k < 3; k++) {
    const rng = Rng.of(58).fork(vae, k);
    const name = `${vae.replaceAll(/\W/g, '')}-${k}`;
    const own = await scene(name, rng.fork('scene'));
    const names = filed(rng.fork('names'), own, vae);
    const tensors: Record<string, NDArray> = {};
    for (const [from, to] of names) tensors[to] = pointwise(to, own.weights[from]);
    // What trainings leave beside: a second, averaged UNet, a schedule, counters.
    const leftovers: Tensors = {
      'model_ema.decay': f32([0.9999], []),
      'model_ema.diffusion_modelout0bias': f32([1, 2, 3, 4], [4]),
      alphas_cumprod: f32([0.5, 0.25], [2]),
      'cond_stage_model.transformer.text_model.embeddings.position_ids': i64([0, 1], [1, 2]),
      'first_stage_model.loss.logvar': f32([0], []),
    };
    const write = (all: Tensors): string => {
      const whole = { ...all, ...leftovers };
      const file = at(k === 2 ? `${name}.ckpt` : `${name}.safetensors`);
      if (k === 2) torchSave(file, { epoch: 3, state_dict: whole });
      else writeSafetensors(file, whole);
      return file;
    };
    const path = write(tensors);
    expect(await verdictOn(path)).toMatchObject({
      verdict: 'loadable',
      kind: 'model',
      dialect: 'ldm',
      algorithm: nets.join(' + '),
    });
    await alike(await opened(path), await loadModel(own.path));
    if (k > 0) continue;
    for (let i = 0; i < 3; i++)
      await damaged({
        rng: rng.fork('damage', i),
        tensors,
        write,
        use: async (from) => effects(await opened(from)),
        names: (key) => [...names].flatMap(([ours, theirs]) => (theirs === key ? [ours] : [])),
      });
  }
});

test('3 folders whose autoencoder has the old names of its attention', async () => {
  for (let k = 0; k < 3; k++) {
    const rng = Rng.of(59).fork(k);
    const { path, weights } = await scene(`folder-${k}`, rng);
    const old = at(`folder-${k}.old`);
    cpSync(path, old, { recursive: true });
    const own = Object.entries(weights).filter(([name]) => name.startsWith('vae.'));
    writeWeights(old, Object.fromEntries(own), oldAttention);
    expect(await verdictOn(old)).toMatchObject({ verdict: 'loadable', kind: 'model' });
    await alike(await loadModel(old), await loadModel(path));
  }
});
