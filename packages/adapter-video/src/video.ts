/** The video adapter: temporal layers after every resnet (+ attention) of a frozen image UNet. */

import {
  type Adapter,
  conv,
  lift,
  type Port,
  type Scope,
  type Site,
  type Strength,
  type Tap,
  zeros,
} from '@attune/core';
import { AttuneError, concat, type Tensor, values, type Weights } from '@attune/engine';

import type { VideoConfig } from './config.ts';
import { decoupledTaps } from './decoupled.ts';
import { temporalTransformer } from './temporal.ts';

export interface VideoOptions {
  readonly name?: string;
  readonly config: VideoConfig;
  /** Latent channels of the model, for `first_frame`. Default 4. */
  readonly channels?: number;
  readonly weights?: Weights;
  readonly strength?: Strength;
  readonly train?: true | readonly string[];
}

const each = (value: number | readonly number[], level: number): number =>
  typeof value === 'number' ? value : value[level];

/** Motion modules on `hidden` sites; with `first_frame`, a widened input as a delta on `conv_in`. */
export function video({
  name = 'video',
  config,
  channels = 4,
  weights,
  strength,
  train,
}: VideoOptions): Adapter {
  const firstFrame: Port = {
    per: 'clip',
    shape: ({ C = channels, H, W }) => [C, H, W],
  };
  const storedPositions = [...(weights?.names() ?? [])].some((key) =>
    key.endsWith('.pos_embed.pe'),
  );
  return {
    name,
    ports: config.first_frame ? { first_frame: firstFrame } : {},
    mixesFrames: true,
    maxFrames: config.motion_max_seq_length,
    config: { _class_name: 'MotionAdapter', ...config },
    ...(weights ? { weights } : {}),
    ...(strength === undefined ? {} : { strength }),
    ...(train ? { train } : {}),
    attach: (_, ports): Tap[] => {
      const motionAt = (value: Tensor, site: Site) => motion(value, site, config, storedPositions);
      const taps: Tap[] = [
        {
          at: 'hidden:unet.*_blocks.*.hidden.*',
          delta: motionAt,
        },
      ];
      if (config.use_motion_mid_block)
        taps.push({
          at: 'hidden:unet.mid_block.hidden.*',
          delta: motionAt,
        });
      if (config.first_frame)
        taps.push({
          at: 'unet.conv_in',
          delta: (value, site) => widened(site.root.at('conv_in'), value, ports.first_frame, site),
        });
      if (config.decoupled_attention) taps.push(...decoupledTaps);
      return taps;
    },
  };
}

/** `hidden.j` of a block belongs to its `motion_modules.j`. */
function motion(
  value: Tensor,
  { address, root, call }: Site,
  config: VideoConfig,
  storedPositions: boolean,
): Tensor {
  const [, block, ...rest] = address.split('.');
  const mid = block === 'mid_block';
  const levels = config.block_out_channels.length;
  const level = mid
    ? levels - 1
    : block === 'up_blocks'
      ? levels - 1 - Number(rest[0])
      : Number(rest[0]);
  const module = root.at(block, ...(mid ? [] : [rest[0]]), 'motion_modules', rest[rest.length - 1]);
  return temporalTransformer(module, value, {
    heads: each(config.motion_num_attention_heads, level),
    layers: mid
      ? each(config.motion_transformer_layers_per_mid_block, 0)
      : each(config.motion_transformer_layers_per_block, level),
    groups: config.motion_norm_num_groups,
    maxFrames: config.motion_max_seq_length,
    rows: call,
    storedPositions,
  });
}

/**
 * The first frame's latent beside every frame (as Stable Video Diffusion conditions) and a mask that
 * is 1 on frame 0 (as Emu Video's): the extra columns of an input convolution.
 */
function widened(scope: Scope, value: Tensor, first: Tensor, { call }: Site): Tensor {
  const { B, F } = call;
  const [rows, , h, w] = first.shape;
  if (rows !== 1 && rows !== B)
    throw new AttuneError(
      'PORT_ROWS',
      `${scope.path}: the first frame has ${rows} rows for ${B} clips; give 1 or ${B}.`,
      { rows, B },
    );
  const mask = new Float32Array(B * F * h * w);
  for (let b = 0; b < B; b++) mask.fill(1, b * F * h * w, (b * F + 1) * h * w);
  const extra = concat([lift(first, B * F, call), values(mask, [B * F, 1, h, w])], 1);
  return conv(scope, extra, value.dim(1), { bias: false, init: zeros });
}
