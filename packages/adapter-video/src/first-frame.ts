/** What every frame is told of the clip's first one: its latent at the input, its features in attention. */

import {
  attend,
  conv,
  type Init,
  lift,
  linear,
  type Port,
  type Site,
  type Tap,
  zeros,
} from '@attune/core';
import { AttuneError, concat, f32, reshape, slice, type Tensor, values } from '@attune/engine';

/** The clean latent of the first frame, [B or 1, C, H, W]. */
export const firstFramePort = (channels: number): Port => ({
  per: 'clip',
  takes: 'latents',
  source: 'first_frame',
  about: 'the clean latent of the first frame, scaled as the model wants it',
  shape: ({ C = channels, H, W }) => [C, H, W],
});

/**
 * The latent beside every frame (as Stable Video Diffusion conditions) and a mask that is 1 on frame 0
 * (as Emu Video's): the extra columns of an input convolution.
 */
export const widenedInput = (first: Tensor): Tap => ({
  at: 'unet.conv_in',
  delta: (value, { root, call: { B, F } }) => {
    const scope = root.at('conv_in');
    const [rows, , h, w] = first.shape;
    if (rows !== 1 && rows !== B)
      throw new AttuneError(
        'PORT_ROWS',
        `${scope.path}: the first frame has ${rows} rows for ${B} clips; give 1 or ${B}.`,
        { rows, B },
      );
    const mask = new Float32Array(B * F * h * w);
    for (let b = 0; b < B; b++) mask.fill(1, b * F * h * w, (b * F + 1) * h * w);
    const extra = concat([lift(first, B * F, { B, F }), values(mask, [B * F, 1, h, w])], 1);
    return conv(scope, extra, value.dim(1), { bias: false, init: zeros });
  },
});

/**
 * Each frame's own queries over the features of frame 0 through keys and values of the adapter's,
 * beside the frozen attention (decoupled attention, IP-Adapter, arXiv 2308.06721).
 */
export const firstFrameAttention: Tap = {
  at: 'attention:unet.**.attn1',
  delta: (_, site) => {
    const { q, k, v, heads } = site.attention!;
    const project = (name: string, rows: Tensor, init: Init) =>
      linear(site.scope.at(name), firstOf(rows, site), rows.dim(-1), { bias: false, init });
    return attend(q, project('to_k', k, identity), project('to_v', v, zeros), heads);
  },
};

/** [B·F, L, C] → [B, L, C]: the rows of frame 0. */
function firstOf(rows: Tensor, { call: { B, F } }: Site): Tensor {
  if (rows.dim(0) !== B * F || F === 1) return rows;
  const [, length, width] = rows.shape;
  return reshape(slice(reshape(rows, [B, F, length, width]), 1, 0, 1), [B, length, width]);
}

const identity: Init = (_, [rows, columns]) =>
  f32(
    Float32Array.from({ length: rows * columns }, (_value, i) =>
      Math.floor(i / columns) === i % columns ? 1 : 0,
    ),
    [rows, columns],
  );
