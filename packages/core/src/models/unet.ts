/** UNet2DConditionModel as a function of a scope, for every configuration of the Stable Diffusion family. */

import {
  add,
  AttuneError,
  concat,
  expand,
  mul,
  reshape,
  silu,
  sub,
  type Tensor,
} from '@attune/engine';

import {
  downsample,
  resnet,
  timeEmbedding,
  timestepEmbedding,
  transformer,
  upsampler,
} from '../nn/blocks.ts';
import { conv, groupNorm } from '../nn/layers.ts';
import { addRows } from '../nn/rows.ts';
import type { Scope } from '../nn/scope.ts';
import type { UNetConfig } from './config.ts';
import { refuseUnsupported } from './config.ts';
import { toLdm } from './ldm.ts';
import type { Net } from './net.ts';

/** Inputs `sample` [B·F, C, H, W], `timestep` [1], `encoder_hidden_states` [B, L, D] → `sample`, the raw prediction. */
export function unet(config: UNetConfig): Net {
  refuseUnsupported(config, 'unet');
  const levels = config.block_out_channels.length;
  if (config.down_block_types.length !== levels || config.up_block_types.length !== levels)
    throw new AttuneError(
      'BAD_CONFIG',
      `unet: ${config.down_block_types.length} down blocks, ${config.up_block_types.length} up blocks and ${levels} block_out_channels.`,
    );
  const context = [config.cross_attention_dim].flat()[0];
  const [layers, ...others] = [config.layers_per_block].flat();
  const attends = (i: number): boolean => config.up_block_types[i] === 'CrossAttnUpBlock2D';
  return {
    name: 'unet',
    aliases: (layer) => {
      const name = toLdm(layer, { layers, attends });
      return name === undefined || others.some((own) => own !== layers) ? [] : [name];
    },
    signature: ({ B, F, H, W, L }) => {
      const factor = 2 ** (levels - 1);
      if (H % factor || W % factor)
        throw new AttuneError(
          'BAD_SIZE',
          `unet: a latent of ${H} × ${W} does not halve ${levels - 1} times; use multiples of ${factor}.`,
          { H, W, factor },
        );
      return {
        sample: { shape: [B * F, config.in_channels, H, W] },
        timestep: { shape: [1] },
        encoder_hidden_states: { shape: [B, L, context], rate: 'clip' },
      };
    },
    trace: (root, { inputs }) => {
      const scope = root.at('unet');
      const { sample, timestep } = inputs;
      const text = scope.at('context').site('context', inputs.encoder_hidden_states);
      const { skips, mid, temb } = encoder(scope, config, { sample, timestep, context: text });
      return { sample: decoder(scope, config, { skips, mid, temb, context: text }) };
    },
  };
}

/** What the first half of a UNet reads. Rows are 1, B or B·F throughout. */
export interface EncoderInputs {
  readonly sample: Tensor;
  /** [1 | B | B·F]. */
  readonly timestep: Tensor;
  readonly context: Tensor;
  /** Added after `conv_in`: F rows (shared by all clips) or B·F. */
  readonly conditioning?: Tensor;
  /** Added to the time embedding: [rows, 4 · block_out_channels[0]]. */
  readonly timeAddend?: Tensor;
}

/** What the first half of a UNet hands to the second. */
export interface Encoded {
  /** In encoder order; 0 is the output of `conv_in`. */
  readonly skips: readonly Tensor[];
  readonly mid: Tensor;
  readonly temb: Tensor;
}

/** Settings of one resolution level. */
function level(config: UNetConfig, i: number) {
  const heads = config.num_attention_heads ?? config.attention_head_dim;
  const each = <T>(value: T | readonly T[]): T => (Array.isArray(value) ? value[i] : value) as T;
  return {
    out: config.block_out_channels[i],
    heads: each<number>(heads),
    layers: each<number>(config.layers_per_block),
    depth: each<number>(config.transformer_layers_per_block),
    onlyCross: each<boolean>(config.only_cross_attention),
  };
}

/** Time embedding, `conv_in`, down blocks and mid block, under any scope: a ControlNet is one, too. */
export function encoder(
  scope: Scope,
  config: UNetConfig,
  { sample, timestep, context, conditioning, timeAddend }: EncoderInputs,
): Encoded {
  const { block_out_channels: widths, norm_num_groups: groups, norm_eps: eps } = config;
  const wave = timestepEmbedding(timestep, widths[0], {
    flip: config.flip_sin_to_cos,
    shift: config.freq_shift,
  });
  let temb = timeEmbedding(
    scope.at('time_embedding'),
    wave,
    config.time_embedding_dim ?? widths[0] * 4,
  );
  if (timeAddend) temb = addRows(temb, timeAddend, scope.call);
  const centred = config.center_input_sample ? sub(mul(sample, 2), 1) : sample;
  let x = conv(scope.at('conv_in'), centred, widths[0], { kernel: config.conv_in_kernel });
  if (conditioning) x = add(x, perFrame(conditioning, x.dim(0)));
  const skips = [x];
  const last = widths.length - 1;
  widths.forEach((out, i) => {
    const block = scope.at('down_blocks', i);
    const { heads, layers, depth, onlyCross } = level(config, i);
    const attends = config.down_block_types[i] === 'CrossAttnDownBlock2D';
    for (let j = 0; j < layers; j++) {
      scope.mark();
      x = resnet(block.at('resnets', j), x, temb, { out, groups, eps });
      if (attends)
        x = transformer(block.at('attentions', j), x, {
          heads,
          layers: depth,
          groups,
          context,
          linearProjection: config.use_linear_projection,
          onlyCross,
        });
      x = block.at('hidden', j).site('hidden', x);
      skips.push(x);
    }
    if (i < last) {
      x = downsample(block, x, config.downsample_padding);
      skips.push(x);
    }
  });
  scope.mark();
  const mid = scope.at('mid_block');
  const { out, heads, depth, onlyCross } = level(config, last);
  const middle = { out, groups, eps, scale: config.mid_block_scale_factor };
  x = resnet(mid.at('resnets', 0), x, temb, middle);
  x = transformer(mid.at('attentions', 0), x, {
    heads,
    layers: depth,
    groups,
    context,
    linearProjection: config.use_linear_projection,
    onlyCross: config.mid_block_only_cross_attention ?? onlyCross,
  });
  x = mid.at('hidden', 0).site('hidden', x);
  x = resnet(mid.at('resnets', 1), x, temb, middle);
  return { skips, mid: mid.site('mid', x), temb };
}

/** F rows as B·F: the frames shared by all clips. */
function perFrame(x: Tensor, rows: number): Tensor {
  const [f, ...rest] = x.shape;
  if (f === rows) return x;
  return reshape(expand(reshape(x, [1, f, ...rest]), [rows / f, f, ...rest]), [rows, ...rest]);
}

function decoder(
  scope: Scope,
  config: UNetConfig,
  { skips, mid, temb, context }: Encoded & { context: Tensor },
): Tensor {
  const { block_out_channels: widths, norm_num_groups: groups, norm_eps: eps } = config;
  const left = [...skips];
  const last = widths.length - 1;
  const depths = config.reverse_transformer_layers_per_block;
  let x = mid;
  for (let i = 0; i <= last; i++) {
    const block = scope.at('up_blocks', i);
    const { out, heads, layers, depth, onlyCross } = level(config, last - i);
    const attends = config.up_block_types[i] === 'CrossAttnUpBlock2D';
    for (let j = 0; j <= layers; j++) {
      scope.mark();
      const k = left.length - 1;
      const skip = scope.at('skips', k).site('skip', left.pop()!);
      x = resnet(block.at('resnets', j), concat([x, skip], 1), temb, { out, groups, eps });
      if (attends)
        x = transformer(block.at('attentions', j), x, {
          heads,
          layers: depths ? depths[i] : depth,
          groups,
          context,
          linearProjection: config.use_linear_projection,
          onlyCross,
        });
      x = block.at('hidden', j).site('hidden', x);
    }
    if (i < last) x = upsampler(block, x);
  }
  const out = silu(groupNorm(scope.at('conv_norm_out'), x, groups, eps));
  return conv(scope.at('conv_out'), out, config.out_channels, { kernel: config.conv_out_kernel });
}
