/**
 * Attention of the adapter's own beside a frozen one, from the same queries (decoupled
 * cross-attention, IP-Adapter, arXiv 2308.06721).
 */

import { attend, type Init, linear, type Site, type Tap, zeros } from '@attune/core';
import { f32, reshape, slice, type Tensor } from '@attune/engine';

/**
 * `attn1`: every frame also looks at all of the clip's first frame, wherever its content has moved to.
 * `attn2`: the text, read anew for words that no still picture taught (of motion).
 */
export const decoupledTaps: readonly Tap[] = [
  {
    at: 'attention:unet.**.attn1',
    delta: (_, site) => besides(site, (rows) => firstFrame(rows, site)),
  },
  { at: 'attention:unet.**.attn2', delta: (_, site) => besides(site, (rows) => rows) },
];

/** What the frozen keys and values of `pick`ed rows give through two projections; nothing at first. */
function besides({ attention, scope }: Site, pick: (rows: Tensor) => Tensor): Tensor {
  const { q, k, v, heads } = attention!;
  const keys = linear(scope.at('to_k'), pick(k), k.dim(-1), { bias: false, init: identity });
  const values = linear(scope.at('to_v'), pick(v), v.dim(-1), { bias: false, init: zeros });
  return attend(q, keys, values, heads);
}

/** [B·F, L, C] → [B, L, C]: the rows of frame 0. */
function firstFrame(rows: Tensor, { call: { B, F } }: Site): Tensor {
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
