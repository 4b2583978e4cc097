/** The building blocks of a UNet, small to large, as diffusers names them. */

import {
  add,
  concat,
  cos,
  exp,
  gelu,
  mul,
  pad,
  reshape,
  silu,
  sin,
  split,
  type Tensor,
  upsample,
  values,
} from '@attune/engine';

import { attention } from './attention.ts';
import { conv, groupNorm, layerNorm, linear, toImage, toTokens } from './layers.ts';
import { addRows } from './rows.ts';
import type { Scope } from './scope.ts';

/** Sinusoids [rows, dim] of timesteps [rows]; cosines first where `flip`. */
export function timestepEmbedding(
  t: Tensor,
  dim: number,
  { flip, shift }: { flip: boolean; shift: number },
): Tensor {
  const half = dim >> 1;
  const exponents = Float32Array.from(
    { length: half },
    (_, i) => (-Math.log(10000) * i) / (half - shift),
  );
  const angles = mul(reshape(t, [-1, 1]), exp(values(exponents, [1, half])));
  const both = flip ? [cos(angles), sin(angles)] : [sin(angles), cos(angles)];
  const joined = concat(both, 1);
  return dim % 2 ? pad(joined, 1, 0, 1) : joined;
}

/** Two linear layers with a SiLU between. */
export function timeEmbedding(scope: Scope, x: Tensor, dim: number): Tensor {
  return linear(scope.at('linear_2'), silu(linear(scope.at('linear_1'), x, dim)), dim);
}

export interface ResnetOptions {
  readonly out: number;
  readonly groups: number;
  readonly eps: number;
  readonly scale?: number;
}

/** x [N, C, H, W] with a time embedding [rows, D] → [N, out, H, W]. */
export function resnet(
  scope: Scope,
  x: Tensor,
  temb: Tensor | undefined,
  { out, groups, eps, scale = 1 }: ResnetOptions,
): Tensor {
  let h = conv(scope.at('conv1'), silu(groupNorm(scope.at('norm1'), x, groups, eps)), out);
  if (temb) {
    const shift = linear(scope.at('time_emb_proj'), silu(temb), out);
    h = addRows(h, reshape(shift, [-1, out, 1, 1]), scope.call);
  }
  h = conv(scope.at('conv2'), silu(groupNorm(scope.at('norm2'), h, groups, eps)), out);
  const residual = x.dim(1) === out ? x : conv(scope.at('conv_shortcut'), x, out, { kernel: 1 });
  return mul(add(residual, h), 1 / scale);
}

/** GEGLU feed-forward: x [… C] → [… C] through `factor` · C channels. */
export function feedForward(scope: Scope, x: Tensor, factor = 4): Tensor {
  const width = x.dim(-1);
  const inner = width * factor;
  const both = linear(scope.at('net', 0, 'proj'), x, inner * 2);
  const [value, gate] = split(both, [inner, inner], -1);
  const hidden = mul(value, gelu(gate));
  return linear(scope.at('net', 2), hidden, width);
}

export interface TransformerOptions {
  readonly heads: number;
  readonly layers: number;
  readonly groups: number;
  readonly context: Tensor;
  readonly linearProjection: boolean;
  /** The first attention of a block, too, reads the context. */
  readonly onlyCross: boolean;
}

/** Self-attention, cross-attention and feed-forward over the pixels of x [N, C, H, W]. */
export function transformer(here: Scope, x: Tensor, options: TransformerOptions): Tensor {
  const { layers, groups, linearProjection } = options;
  const [, c, h, w] = x.shape;
  const scope = here.on({ h, w, layout: 'tokens' });
  const normal = groupNorm(scope.at('norm'), x, groups, 1e-6);
  let tokens = linearProjection
    ? linear(scope.at('proj_in'), toTokens(normal), c)
    : toTokens(conv(scope.at('proj_in'), normal, c, { kernel: 1 }));
  for (let i = 0; i < layers; i++)
    tokens = transformerBlock(scope.at('transformer_blocks', i), tokens, options);
  const out = linearProjection
    ? toImage(linear(scope.at('proj_out'), tokens, c), h, w)
    : conv(scope.at('proj_out'), toImage(tokens, h, w), c, { kernel: 1 });
  return add(out, x);
}

function transformerBlock(
  scope: Scope,
  x: Tensor,
  { heads, context, onlyCross }: TransformerOptions,
): Tensor {
  const own = attention(scope.at('attn1'), layerNorm(scope.at('norm1'), x), {
    heads,
    ...(onlyCross ? { context } : {}),
  });
  let tokens = scope.at('attn1').site('tokens', add(own, x));
  const cross = attention(scope.at('attn2'), layerNorm(scope.at('norm2'), tokens), {
    heads,
    context,
  });
  tokens = scope.at('attn2').site('tokens', add(cross, tokens));
  const fed = feedForward(scope.at('ff'), layerNorm(scope.at('norm3'), tokens));
  return scope.at('ff').site('tokens', add(fed, tokens));
}

/** A stride-2 convolution. Padding 0 stands for one zero at the bottom and right. */
export function downsample(scope: Scope, x: Tensor, padding: number): Tensor {
  return conv(scope.at('downsamplers', 0, 'conv'), x, x.dim(1), {
    stride: 2,
    padding: padding === 0 ? [0, 0, 1, 1] : padding,
  });
}

/** Each pixel doubled, then a convolution. */
export function upsampler(scope: Scope, x: Tensor): Tensor {
  return conv(scope.at('upsamplers', 0, 'conv'), upsample(x, 2), x.dim(1));
}
