/** Models small enough to run in milliseconds, and adapters that are no longer the identity. */

import { type Dims, materialize, type Model, unet, UNetConfig } from '@attune/core';
import { type F32Array, type NDArray, Rng, toF32, Weights } from '@attune/engine';

/** Two clips of three frames of 4 × 4 latents: no two sizes that could be mixed up are equal. */
export const tinyDims: Dims = { B: 2, F: 3, H: 4, W: 4, L: 5 };

/** A UNet of widths 8 and 16 that reads text of width 12. */
export const tinyUNet: UNetConfig = UNetConfig.parse({
  block_out_channels: [8, 16],
  down_block_types: ['CrossAttnDownBlock2D', 'DownBlock2D'],
  up_block_types: ['UpBlock2D', 'CrossAttnUpBlock2D'],
  layers_per_block: 1,
  attention_head_dim: 2,
  cross_attention_dim: 12,
  norm_num_groups: 4,
});

/** A model of one UNet with random weights. */
export function tinyModel({
  config = tinyUNet,
  seed = 1,
}: { config?: UNetConfig; seed?: number } = {}): Model {
  const nets = { unet: unet(config) };
  const bare: Model = { nets, weights: Weights.fromArrays({}), adapters: [] };
  return materialize(bare, { dims: tinyDims, seed });
}

/** The model with noise on every parameter of its adapters: none starts as the identity any more. */
export function randomised(model: Model, seed: number): Model {
  const names = new Set(model.adapters.map(({ name }) => name));
  const rng = Rng.of(seed).fork('randomised');
  const moved: Record<string, NDArray> = {};
  for (const name of model.weights.names())
    if (names.has(name.slice(0, name.indexOf('.'))))
      moved[name] = noisy(toF32(model.weights.entry(name).load()), rng.fork(name));
  return { ...model, weights: Weights.overlay(model.weights, Weights.fromArrays(moved)) };
}

const noisy = (array: F32Array, rng: Rng): F32Array => ({
  ...array,
  data: array.data.map((value) => value + 0.1 * rng.normal()),
});
