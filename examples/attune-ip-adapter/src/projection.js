// @ts-check
/** From features of a picture to tokens that cross-attention reads: the three kinds of `image_proj`. */

import { attend, layerNorm, linear, normal } from '@attune/core';
import { add, concat, expand, gelu, reshape, slice } from '@attune/engine';

/**
 * @import { Scope } from '@attune/core'
 * @import { Tensor } from '@attune/engine'
 */

/**
 * What a file says of its `image_proj`.
 * @typedef {{ kind: 'base', features: number, tokens: number }
 *   | { kind: 'plus', features: number, tokens: number, width: number, heads: number, layers: number }
 *   | { kind: 'full', features: number }} Projection
 */

/** Channels of a head in the resampler, the same in every file. */
export const HEAD = 64;

/**
 * Features of a picture → tokens [N, T, out]. `base` reads one row [N, D], the others [N, L, D].
 * @param {Scope} scope the place of `image_proj`
 * @param {Tensor} x
 * @param {Projection} projection
 * @param {number} out width of the text
 * @returns {Tensor}
 */
export function imageTokens(scope, x, projection, out) {
  if (projection.kind === 'plus') return resampled(scope, x, projection, out);
  if (projection.kind === 'full') {
    const hidden = gelu(linear(scope.at('proj', 0), x, projection.features));
    return layerNorm(scope.at('proj', 3), linear(scope.at('proj', 2), hidden, out));
  }
  const { tokens } = projection;
  const flat = linear(scope.at('proj'), x, tokens * out);
  return layerNorm(scope.at('norm'), reshape(flat, [-1, tokens, out]));
}

/**
 * A few learned queries that read the features and one another (Perceiver, arXiv 2103.03206).
 * @param {Scope} scope
 * @param {Tensor} x
 * @param {Extract<Projection, { kind: 'plus' }>} projection
 * @param {number} out
 */
function resampled(scope, x, { tokens, width, heads, layers }, out) {
  const start = scope.param('latents', [1, tokens, width], normal(width ** -0.5));
  let latents = expand(start, [x.dim(0), tokens, width]);
  const seen = linear(scope.at('proj_in'), x, width);
  for (let i = 0; i < layers; i++) {
    const layer = scope.at('layers', i);
    latents = add(attended(layer.at(0), seen, latents, heads), latents);
    latents = add(fed(layer.at(1), latents), latents);
  }
  return layerNorm(scope.at('norm_out'), linear(scope.at('proj_out'), latents, out));
}

/**
 * The latents over the features and themselves.
 * @param {Scope} scope
 * @param {Tensor} x
 * @param {Tensor} latents
 * @param {number} heads
 */
function attended(scope, x, latents, heads) {
  const inner = heads * HEAD;
  const bias = false;
  const own = layerNorm(scope.at('norm2'), latents);
  const all = concat([layerNorm(scope.at('norm1'), x), own], 1);
  const q = linear(scope.at('to_q'), own, inner, { bias });
  const both = linear(scope.at('to_kv'), all, 2 * inner, { bias });
  const [k, v] = [slice(both, -1, 0, inner), slice(both, -1, inner)];
  const value = scope.site('attention', attend(q, k, v, heads), { q, k, v, heads });
  return linear(scope.at('to_out'), value, latents.dim(-1), { bias });
}

/**
 * @param {Scope} scope
 * @param {Tensor} x
 */
function fed(scope, x) {
  const width = x.dim(-1);
  const bias = false;
  const hidden = linear(scope.at(1), layerNorm(scope.at(0), x), 4 * width, { bias });
  return linear(scope.at(3), gelu(hidden), width, { bias });
}
