/** The video adapter: temporal layers after every resnet (+ attention) of a frozen image UNet. */

import type { Adapter, PortValues, Ports, ScheduleConfig, Site, Strength, Tap } from '@attune/core';
import type { Tensor, Weights } from '@attune/engine';

import type { VideoConfig } from './config.ts';
import { firstFrameAttention, firstFramePort, widenedInput } from './first-frame.ts';
import { originalName } from './original.ts';
import { temporalTransformer } from './temporal.ts';

/** What a video adapter is made of. */
export interface VideoOptions {
  readonly name?: string;
  readonly config: VideoConfig;
  /** Latent channels of the model, for `first_frame`. Default 4. */
  readonly channels?: number;
  readonly weights?: Weights;
  readonly strength?: Strength;
  readonly train?: true | readonly string[];
  /** The noise it was trained with, where that is known. */
  readonly trainedWith?: Readonly<Partial<ScheduleConfig>>;
}

/**
 * Motion modules on `hidden` sites. Ports, where the config asks for them: `first_frame` [B, C, H, W];
 * `text` [B, L, D], what moves how, by default the backbone's text.
 */
export function video({
  name = 'video',
  config,
  channels = 4,
  weights,
  strength,
  train,
  trainedWith,
}: VideoOptions): Adapter {
  const storedPositions = [...(weights?.names() ?? [])].some((key) =>
    key.endsWith('.pos_embed.pe'),
  );
  return {
    name,
    ports: portsOf(config, channels),
    mixesFrames: true,
    maxFrames: config.motion_max_seq_length,
    config: { _class_name: 'MotionAdapter', ...config },
    aliases: (layer) => [originalName(layer)],
    ...(weights ? { weights } : {}),
    ...(strength === undefined ? {} : { strength }),
    ...(train ? { train } : {}),
    ...(trainedWith ? { trainedWith } : {}),
    attach: (_, ports): Tap[] => {
      const delta = (value: Tensor, site: Site) =>
        motion(value, site, ports, config, storedPositions);
      return [
        { at: 'hidden:unet.*_blocks.*.hidden.*', delta },
        ...(config.use_motion_mid_block ? [{ at: 'hidden:unet.mid_block.hidden.*', delta }] : []),
        ...(config.first_frame ? [widenedInput(ports.first_frame)] : []),
        ...(config.first_frame_attention ? [firstFrameAttention] : []),
      ];
    },
  };
}

function portsOf(config: VideoConfig, channels: number): Ports {
  const width = config.cross_attention_dim;
  return {
    ...(config.first_frame ? { first_frame: firstFramePort(channels) } : {}),
    ...(width
      ? {
          text: {
            per: 'clip',
            takes: 'text',
            about: 'text states of what moves how',
            shape: ({ L }) => [L, width],
            defaultTo: 'encoder_hidden_states',
          } as const,
        }
      : {}),
  };
}

/** `hidden.j` of a block belongs to its `motion_modules.j`. */
function motion(
  value: Tensor,
  { address, root, call }: Site,
  ports: PortValues,
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
    norm: config.norm,
    maxFrames: config.motion_max_seq_length,
    rows: call,
    storedPositions,
    ...(config.cross_attention_dim ? { text: ports.text } : {}),
  });
}

const each = (value: number | readonly number[], level: number): number =>
  typeof value === 'number' ? value : value[level];
