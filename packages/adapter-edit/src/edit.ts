/** The edit adapter: a ControlNet (Zhang et al., arXiv 2302.05543) with a text and a task of its own. */

import {
  type Adapter,
  conv,
  embedding,
  encoder,
  type Ports,
  type PortValues,
  type Scope,
  type Strength,
  type Tap,
  zeros,
} from '@attune/core';
import {
  concat,
  expand,
  mean,
  mul,
  silu,
  split,
  sub,
  type Tensor,
  type Weights,
} from '@attune/engine';

import type { EditConfig } from './config.ts';

/** What an edit adapter is made of. */
export interface EditOptions {
  readonly name?: string;
  readonly config: EditConfig;
  readonly weights?: Weights;
  /** Where a fresh adapter starts: a UNet's weights without their prefix, of which it copies the encoder. */
  readonly initial?: Weights;
  readonly strength?: Strength;
  readonly train?: true | readonly string[];
}

/**
 * Deltas on the decoder's skips and on the middle, from a copy of the UNet's encoder that also sees
 * an image. Ports: `image` [F or B·F, 3, 8H, 8W] in [0, 1]; `encoder_hidden_states` [.., L, D], the
 * instruction, by default the backbone's text; `task` [..] i64 where the config counts tasks.
 */
export function edit({ name = 'edit', config, strength, train, ...files }: EditOptions): Adapter {
  return {
    name,
    ports: portsOf(config),
    commutes: true,
    ...(config.guess_mode || config.global_pool_conditions ? { conditional: true } : {}),
    config: { _class_name: 'ControlNetModel', ...config },
    ...files,
    ...(strength === undefined ? {} : { strength }),
    ...(train ? { train } : {}),
    attach: (root, ports): Tap[] => {
      const net = () => root.call.once(name, () => control(root, ports, config));
      return [
        {
          at: 'skip:unet.skips.*',
          delta: (_, { address }) => net().skips[Number(address.split('.').pop())],
        },
        { at: 'mid:unet.mid_block', delta: () => net().mid },
      ];
    },
  };
}

function portsOf(config: EditConfig): Ports {
  const factor = 2 ** (config.conditioning_embedding_out_channels.length - 1);
  const channels = config.conditioning_channels;
  return {
    image: {
      per: 'frame',
      takes: 'image',
      source: 'input',
      about: 'the picture that is edited, RGB in [0, 1]',
      shape: ({ H, W }) => [channels, H * factor, W * factor],
    },
    encoder_hidden_states: {
      per: 'clip',
      takes: 'text',
      source: 'instruction',
      about: 'text states of the instruction',
      shape: ({ L }) => [L, Number(config.cross_attention_dim)],
      defaultTo: 'encoder_hidden_states',
    },
    ...(config.num_class_embeds
      ? {
          task: {
            per: 'clip',
            takes: 'label',
            source: 'task',
            about: `number of the task, 0 … ${config.num_class_embeds - 1}`,
            shape: () => [],
            dtype: 'i64',
          } as const,
        }
      : {}),
  };
}

interface Control {
  readonly skips: readonly Tensor[];
  readonly mid: Tensor;
}

/** The private net: parameters under the adapter's name, in diffusers' ControlNetModel layout. */
function control(root: Scope, ports: PortValues, config: EditConfig): Control {
  const { sample, timestep } = root.call.inputs;
  const width = config.block_out_channels[0];
  const task = config.num_class_embeds
    ? embedding(root.at('class_embedding'), ports.task, config.num_class_embeds, width * 4)
    : undefined;
  const { skips, mid } = encoder(root, config, {
    sample,
    timestep,
    context: ports.encoder_hidden_states,
    conditioning: hint(root.at('controlnet_cond_embedding'), ports.image, config),
    ...(task ? { timeAddend: task } : {}),
  });
  const out = (scope: Scope, x: Tensor, i: number) => {
    const y = conv(scope, x, x.dim(1), { kernel: 1, init: zeros });
    if (config.global_pool_conditions) return expand(mean(y, [2, 3], { keep: true }), y.shape);
    return config.guess_mode ? mul(y, 10 ** (i / skips.length - 1)) : y;
  };
  return {
    skips: skips.map((skip, i) => out(root.at('controlnet_down_blocks', i), skip, i)),
    mid: out(root.at('controlnet_mid_block'), mid, skips.length),
  };
}

/** The image in the order of channels and the range that the net was trained with. */
function asTrained(image: Tensor, config: EditConfig): Tensor {
  const ordered =
    config.controlnet_conditioning_channel_order === 'bgr'
      ? concat(
          split(
            image,
            Array.from({ length: image.dim(1) }, () => 1),
            1,
          ).toReversed(),
          1,
        )
      : image;
  return config.hint_range === 'signed' ? sub(mul(ordered, 2), 1) : ordered;
}

/** Image features at latent resolution; the last convolution starts at zero. */
function hint(scope: Scope, image: Tensor, config: EditConfig): Tensor {
  const widths = config.conditioning_embedding_out_channels;
  let x = silu(conv(scope.at('conv_in'), asTrained(image, config), widths[0]));
  for (let i = 0; i + 1 < widths.length; i++) {
    x = silu(conv(scope.at('blocks', 2 * i), x, widths[i]));
    x = silu(conv(scope.at('blocks', 2 * i + 1), x, widths[i + 1], { stride: 2 }));
  }
  return conv(scope.at('conv_out'), x, config.block_out_channels[0], { init: zeros });
}
