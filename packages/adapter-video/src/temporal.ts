/** The temporal transformer of AnimateDiff (arXiv 2307.04725), in diffusers' layout. */

import {
  attention,
  feedForward,
  layerNorm,
  linear,
  ones,
  type Rows,
  type Scope,
  zeros,
} from '@attune/core';
import {
  add,
  AttuneError,
  f32,
  groupNorm,
  reshape,
  slice,
  type Tensor,
  transpose,
  values,
} from '@attune/engine';

export interface TemporalOptions {
  readonly heads: number;
  readonly layers: number;
  readonly groups: number;
  readonly norm: 'all_frames' | 'per_frame';
  /** Frames the position table reaches. */
  readonly maxFrames: number;
  readonly rows: Rows;
  /** Positions are a parameter (`pos_embed.pe`) of each block, as some files store them. */
  readonly storedPositions: boolean;
  /** [B or 1, L, D]: the second attention of each block reads this text instead of the other frames. */
  readonly text?: Tensor;
}

/**
 * x [B·F, C, H, W] → what the module adds to it. Tokens are the frames of each pixel.
 */
export function temporalTransformer(
  here: Scope,
  x: Tensor,
  {
    heads,
    layers,
    groups,
    norm: over,
    maxFrames,
    rows: { B, F },
    storedPositions,
    text,
  }: TemporalOptions,
): Tensor {
  const [, c, h, w] = x.shape;
  const scope = here.on({ h, w, layout: 'tubes' });
  if (F > maxFrames)
    throw new AttuneError(
      'TOO_MANY_FRAMES',
      `${scope.path}: ${F} frames, but its position table has ${maxFrames}; use windows of at most ${maxFrames}.`,
      { frames: F, maxFrames },
    );
  const frames = reshape(x, [B * F, c, h * w]);
  const whole = transpose(reshape(x, [B, F, c, h * w]), [0, 2, 1, 3]); // [B, C, F, H·W]
  const normed = over === 'per_frame' ? frames : whole;
  const norm = scope.at('norm');
  const normal = norm.layer({
    type: 'norm',
    x: normed,
    weight: norm.param('weight', [c], ones),
    bias: norm.param('bias', [c], zeros),
    apply: (weight, bias) => groupNorm(normed, groups, weight, bias!, 1e-6),
  });
  const byPixel =
    over === 'per_frame'
      ? transpose(reshape(normal, [B, F, c, h * w]), [0, 3, 1, 2])
      : transpose(normal, [0, 3, 2, 1]);
  const tokens = reshape(byPixel, [B * h * w, F, c]);
  const inner = c;
  let t = linear(scope.at('proj_in'), tokens, inner);
  for (let i = 0; i < layers; i++) {
    const block = scope.at('transformer_blocks', i);
    const positions = storedPositions
      ? slice(storedTable(block, maxFrames, inner), 1, 0, F)
      : values(sinusoids(F, inner), [1, F, inner]);
    for (const n of [1, 2]) {
      const seen = add(layerNorm(block.at(`norm${n}`), t), positions);
      const context = n === 2 ? text : undefined;
      t = add(t, attention(block.at(`attn${n}`), seen, { heads, ...(context ? { context } : {}) }));
    }
    t = add(t, feedForward(block.at('ff'), layerNorm(block.at('norm3'), t)));
  }
  const out = linear(scope.at('proj_out'), t, c, { init: zeros });
  return reshape(transpose(reshape(out, [B, h * w, F, c]), [0, 2, 3, 1]), x.shape);
}

const storedTable = (block: Scope, frames: number, channels: number): Tensor =>
  block
    .at('pos_embed')
    .param('pe', [1, frames, channels], () =>
      f32(sinusoids(frames, channels), [1, frames, channels]),
    );

/** Positions [F, C]: sine at even, cosine at odd channels, base 10⁴. */
export function sinusoids(frames: number, channels: number): Float32Array {
  const table = new Float32Array(frames * channels);
  for (let f = 0; f < frames; f++)
    for (let i = 0; i < channels; i += 2) {
      const angle = Math.fround(
        f * Math.fround(Math.exp(i * Math.fround(-Math.log(10000) / channels))),
      );
      table[f * channels + i] = Math.sin(angle);
      if (i + 1 < channels) table[f * channels + i + 1] = Math.cos(angle);
    }
  return table;
}
