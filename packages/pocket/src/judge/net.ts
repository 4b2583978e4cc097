/**
 * The judges: small convolutional classifiers of one frame. `judge` says what a frame shows; the
 * levels of `features`, a net of another shape and another training, give a distance. Neither is
 * ever a critic.
 */

import { conv, groupNorm, linear, type Net, type NetKind, netKind, type Scope } from '@attune/core';
import { add, reshape, silu, type Tensor } from '@attune/engine';
import { z } from 'zod';

import { HEADS } from './labels.ts';

/** config.json of a judge. */
export const ClassifierConfig = z.object({
  in_channels: z.int().positive().default(3),
  /** Widths of the levels; each after the first halves the sides. */
  block_out_channels: z.array(z.int().positive()).min(1),
  /** Blocks of each level. */
  layers_per_block: z.array(z.int().nonnegative()),
  /** `residual`: two convolutions around a skip. `plain`: one convolution without. */
  block_type: z.enum(['residual', 'plain']),
  /** Width of the layer under the heads, which reads every place of the last level: sides are fixed by it. */
  hidden_size: z.int().positive(),
  norm_num_groups: z.int().positive().default(8),
});
/** A judge's config with its defaults filled in. */
export type ClassifierConfig = z.infer<typeof ClassifierConfig>;

const eps = 1e-5;
/** Channels of the last level that are read place by place: the world's objects stand near the middle. */
const slimWidth = 24;

/**
 * `pixels` [N, 3, H, W] in [-1, 1] → `logits.<head>` [N, classes] of every head of HEADS, and
 * `level.<i>` [N, C, H/2^i, W/2^i], what each level ends with.
 */
export function classifier(config: ClassifierConfig, name: string): Net {
  const { in_channels, block_out_channels: widths, layers_per_block: layers } = config;
  const normed = (scope: Scope, x: Tensor): Tensor =>
    silu(groupNorm(scope, x, config.norm_num_groups, eps));
  const block = (scope: Scope, x: Tensor): Tensor => {
    const width = x.dim(1);
    const h = conv(scope.at('conv1'), normed(scope.at('norm1'), x), width);
    if (config.block_type === 'plain') return h;
    return add(x, conv(scope.at('conv2'), normed(scope.at('norm2'), h), width));
  };
  return {
    name,
    signature: ({ B, F, H, W }) => ({ pixels: { shape: [B * F, in_channels, H, W] } }),
    trace: (root, { inputs }) => {
      const scope = root.at(name);
      const outputs: Record<string, Tensor> = {};
      let x = conv(scope.at('conv_in'), inputs.pixels, widths[0]);
      widths.forEach((width, i) => {
        const level = scope.at('down_blocks', i);
        if (i > 0) x = conv(level.at('downsampler', 'conv'), x, width, { stride: 2 });
        for (let j = 0; j < (layers[i] ?? 0); j++) x = block(level.at('resnets', j), x);
        outputs[`level.${i}`] = x;
      });
      const slim = conv(scope.at('conv_out'), normed(scope.at('conv_norm_out'), x), slimWidth);
      const flat = reshape(slim, [x.dim(0), -1]);
      const seen = silu(linear(scope.at('linear_out'), flat, config.hidden_size));
      for (const [head, classes] of Object.entries(HEADS))
        outputs[`logits.${head}`] = linear(scope.at('heads', head), seen, classes.length);
      return outputs;
    },
  };
}

/** A classifier as a part of a model folder; its one net has the part's name. */
export const classifierKind: NetKind = netKind({
  config: ClassifierConfig,
  create: (config, name) => ({ nets: { [name]: classifier(config, name) } }),
});
