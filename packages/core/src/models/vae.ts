/** AutoencoderKL: the autoencoder of Stable Diffusion. */

import { add, clamp, silu, slice, type Tensor } from '@attune/engine';

import { attention } from '../nn/attention.ts';
import { downsample, resnet, upsampler } from '../nn/blocks.ts';
import { conv, groupNorm, toImage, toTokens } from '../nn/layers.ts';
import type { Scope } from '../nn/scope.ts';
import type { VaeConfig } from './config.ts';
import type { Net } from './net.ts';

/** Every norm of this network uses it. */
const eps = 1e-6;

/** `pixels` [N, 3, H, W] in [-1, 1] → `latents`, the mean of the posterior (unscaled), and `logvar`. */
export function vaeEncoder(config: VaeConfig): Net {
  return {
    name: 'vae',
    signature: ({ B, F, H, W }) => ({ pixels: { shape: [B * F, config.in_channels, H, W] } }),
    trace: (root, { inputs }) => {
      const scope = root.at('vae', 'encoder');
      const { block_out_channels: widths, norm_num_groups: groups, latent_channels: z } = config;
      let x = conv(scope.at('conv_in'), inputs.pixels, widths[0]);
      widths.forEach((out, i) => {
        const block = scope.at('down_blocks', i);
        scope.mark();
        for (let j = 0; j < config.layers_per_block; j++)
          x = resnet(block.at('resnets', j), x, undefined, { out, groups, eps });
        if (i + 1 < widths.length) x = downsample(block, x, 0);
      });
      x = middle(scope.at('mid_block'), x, config);
      x = silu(groupNorm(scope.at('conv_norm_out'), x, groups, eps));
      x = conv(scope.at('conv_out'), x, 2 * z);
      if (config.use_quant_conv) x = conv(root.at('vae', 'quant_conv'), x, 2 * z, { kernel: 1 });
      return { latents: slice(x, 1, 0, z), logvar: clamp(slice(x, 1, z), -30, 20) };
    },
  };
}

/** `latents` (unscaled) → `pixels` in about [-1, 1]. */
export function vaeDecoder(config: VaeConfig): Net {
  return {
    name: 'vae',
    signature: ({ B, F, H, W }) => ({ latents: { shape: [B * F, config.latent_channels, H, W] } }),
    trace: (root, { inputs }) => {
      const scope = root.at('vae', 'decoder');
      const { norm_num_groups: groups, latent_channels: z } = config;
      const widths = config.block_out_channels.toReversed();
      let x = inputs.latents;
      if (config.use_post_quant_conv)
        x = conv(root.at('vae', 'post_quant_conv'), x, z, { kernel: 1 });
      x = conv(scope.at('conv_in'), x, widths[0]);
      x = middle(scope.at('mid_block'), x, config);
      widths.forEach((out, i) => {
        const block = scope.at('up_blocks', i);
        scope.mark();
        for (let j = 0; j <= config.layers_per_block; j++)
          x = resnet(block.at('resnets', j), x, undefined, { out, groups, eps });
        if (i + 1 < widths.length) x = upsampler(block, x);
      });
      x = silu(groupNorm(scope.at('conv_norm_out'), x, groups, eps));
      return { pixels: conv(scope.at('conv_out'), x, config.out_channels) };
    },
  };
}

function middle(scope: Scope, x: Tensor, config: VaeConfig): Tensor {
  const { norm_num_groups: groups } = config;
  const options = { out: x.dim(1), groups, eps };
  scope.mark();
  const first = resnet(scope.at('resnets', 0), x, undefined, options);
  const seen = config.mid_block_add_attention
    ? pixelAttention(scope.at('attentions', 0), first, groups)
    : first;
  return resnet(scope.at('resnets', 1), seen, undefined, options);
}

/** Self-attention of one head over all pixels. */
function pixelAttention(scope: Scope, x: Tensor, groups: number): Tensor {
  const [, , h, w] = x.shape;
  const tokens = toTokens(groupNorm(scope.at('group_norm'), x, groups, eps));
  return add(x, toImage(attention(scope, tokens, { heads: 1, qkvBias: true }), h, w));
}
