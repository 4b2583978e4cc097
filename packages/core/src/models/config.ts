/** Configurations of the networks: diffusers' and transformers' own keys and defaults. */

import { AttuneError } from '@attune/engine';
import { z } from 'zod';

import { nominalDims } from './net.ts';

/** Levels of a net. The limits here and below are far above any model's: a config is traced before its weights are missed. */
const LEVELS = 12;
const perLevel = <T extends z.ZodType>(item: T) => z.array(item).min(1).max(LEVELS);
const oneOrEach = <T extends z.ZodType>(item: T) => z.union([item, perLevel(item)]);
/** Channels, features, tokens. */
const count = z
  .int()
  .positive()
  .max(2 ** 20);
/** Layers of one level. */
const layers = z.int().positive().max(32);

/** UNet2DConditionModel. Keys that change the mathematics and are not listed must keep their defaults. */
export const UNetConfig = z.looseObject({
  in_channels: count.default(4),
  out_channels: count.default(4),
  center_input_sample: z.boolean().default(false),
  flip_sin_to_cos: z.boolean().default(true),
  freq_shift: z.number().default(0),
  down_block_types: perLevel(z.enum(['CrossAttnDownBlock2D', 'DownBlock2D'])).default([
    'CrossAttnDownBlock2D',
    'CrossAttnDownBlock2D',
    'CrossAttnDownBlock2D',
    'DownBlock2D',
  ]),
  up_block_types: perLevel(z.enum(['CrossAttnUpBlock2D', 'UpBlock2D'])).default([
    'UpBlock2D',
    'CrossAttnUpBlock2D',
    'CrossAttnUpBlock2D',
    'CrossAttnUpBlock2D',
  ]),
  mid_block_type: z.literal('UNetMidBlock2DCrossAttn').default('UNetMidBlock2DCrossAttn'),
  block_out_channels: perLevel(count).default([320, 640, 1280, 1280]),
  layers_per_block: oneOrEach(layers).default(2),
  only_cross_attention: oneOrEach(z.boolean()).default(false),
  mid_block_only_cross_attention: z.boolean().nullish(),
  downsample_padding: z.int().min(0).max(1).default(1),
  mid_block_scale_factor: z.number().default(1),
  act_fn: z.enum(['silu', 'swish']).default('silu'),
  norm_num_groups: count.default(32),
  norm_eps: z.number().positive().default(1e-5),
  cross_attention_dim: oneOrEach(count).default(1280),
  transformer_layers_per_block: oneOrEach(layers).default(1),
  reverse_transformer_layers_per_block: perLevel(layers).nullish(),
  /** The NUMBER of heads: diffusers' misnomer. `num_attention_heads` goes first where given. */
  attention_head_dim: oneOrEach(count).default(8),
  num_attention_heads: oneOrEach(count).nullish(),
  use_linear_projection: z.boolean().default(false),
  time_embedding_dim: count.nullish(),
  conv_in_kernel: layers.default(3),
  conv_out_kernel: layers.default(3),
  /** Side, or height and width, of the latents it was made for. */
  sample_size: z.union([count, z.tuple([count, count])]).nullish(),
});
/** A UNet's config with all defaults filled in, and keys that nothing reads left as they were. */
export type UNetConfig = z.infer<typeof UNetConfig>;

/** Keys that would change the result, with the values that do not. */
const inert: Readonly<Record<string, readonly unknown[]>> = {
  dual_cross_attention: [false],
  class_embed_type: [null],
  num_class_embeds: [null],
  addition_embed_type: [null],
  encoder_hid_dim: [null],
  encoder_hid_dim_type: [null],
  resnet_time_scale_shift: ['default'],
  resnet_skip_time_act: [false],
  resnet_out_scale_factor: [1, null],
  time_embedding_type: ['positional'],
  time_embedding_act_fn: [null],
  timestep_post_act: [null],
  time_cond_proj_dim: [null],
  attention_type: ['default'],
  cross_attention_norm: [null],
  dropout: [0],
};

/** Refuses a config that asks for what is not implemented, naming the key. */
export function refuseUnsupported(config: Readonly<Record<string, unknown>>, where: string): void {
  for (const [key, allowed] of Object.entries(inert)) {
    const value = config[key];
    if (value === undefined || value === null || allowed.includes(value)) continue;
    throw new AttuneError(
      'UNSUPPORTED_CONFIG',
      `${where}: ${key} = ${JSON.stringify(value)} is not supported; only ${JSON.stringify(allowed[0])} is.`,
      { key, value },
    );
  }
}

/** Every net is traced once with so many tokens (`nominalDims`); CLIP's encoders read 77. */
const LEAST_TOKENS = nominalDims.L;

/** CLIPTextModel. */
export const ClipTextConfig = z.looseObject({
  vocab_size: count.default(49408),
  hidden_size: count.default(512),
  intermediate_size: count.default(2048),
  num_hidden_layers: z.int().positive().max(256).default(12),
  num_attention_heads: count.default(8),
  max_position_embeddings: count
    .min(LEAST_TOKENS, `a text encoder reads at least ${LEAST_TOKENS} tokens here`)
    .default(77),
  hidden_act: z.enum(['quick_gelu', 'gelu']).default('quick_gelu'),
  layer_norm_eps: z.number().positive().default(1e-5),
  /** 2 is the legacy value: the end is then the largest id. */
  eos_token_id: z.int().default(49407),
});
/** A text encoder's config with all defaults filled in. */
export type ClipTextConfig = z.infer<typeof ClipTextConfig>;

/** AutoencoderKL. */
export const VaeConfig = z.looseObject({
  in_channels: count.default(3),
  out_channels: count.default(3),
  down_block_types: perLevel(z.literal('DownEncoderBlock2D')).default(['DownEncoderBlock2D']),
  up_block_types: perLevel(z.literal('UpDecoderBlock2D')).default(['UpDecoderBlock2D']),
  block_out_channels: perLevel(count).default([64]),
  layers_per_block: layers.default(1),
  act_fn: z.enum(['silu', 'swish']).default('silu'),
  latent_channels: count.default(4),
  norm_num_groups: count.default(32),
  scaling_factor: z.number().default(0.18215),
  shift_factor: z.number().nullish(),
  use_quant_conv: z.boolean().default(true),
  use_post_quant_conv: z.boolean().default(true),
  mid_block_add_attention: z.boolean().default(true),
});
export type VaeConfig = z.infer<typeof VaeConfig>;

/** AutoencoderTiny. */
export const TinyVaeConfig = z.looseObject({
  in_channels: count.default(3),
  out_channels: count.default(3),
  encoder_block_out_channels: perLevel(count).default([64, 64, 64, 64]),
  decoder_block_out_channels: perLevel(count).default([64, 64, 64, 64]),
  act_fn: z.literal('relu').default('relu'),
  upsample_fn: z.literal('nearest').default('nearest'),
  latent_channels: count.default(4),
  upsampling_scaling_factor: layers.default(2),
  num_encoder_blocks: perLevel(z.int().nonnegative().max(32)).default([1, 3, 3, 3]),
  num_decoder_blocks: perLevel(z.int().nonnegative().max(32)).default([3, 3, 3, 1]),
  scaling_factor: z.number().default(1),
  shift_factor: z.number().default(0),
});
/** A tiny autoencoder's config with all defaults filled in. */
export type TinyVaeConfig = z.infer<typeof TinyVaeConfig>;
