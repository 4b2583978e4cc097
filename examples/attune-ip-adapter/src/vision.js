// @ts-check
/** CLIPVisionModelWithProjection as a private net, with transformers' names, and the pixels that it reads. */

import { attend, conv, layerNorm, linear, normal, toTokens } from '@attune/core';
import {
  add,
  concat,
  expand,
  gelu,
  matmul,
  mul,
  quickGelu,
  reshape,
  slice,
  sub,
  values,
} from '@attune/engine';
import { z } from 'zod';

/**
 * @import { Scope } from '@attune/core'
 * @import { Tensor } from '@attune/engine'
 */

const count = z.int().positive();

/** The config.json of an `image_encoder` folder. */
export const VisionConfig = z.looseObject({
  hidden_size: count.default(768),
  intermediate_size: count.default(3072),
  projection_dim: count.default(512),
  num_hidden_layers: count.default(12),
  num_attention_heads: count.default(12),
  image_size: count.default(224),
  patch_size: count.default(32),
  hidden_act: z.enum(['quick_gelu', 'gelu']).default('quick_gelu'),
  layer_norm_eps: z.number().positive().default(1e-5),
});
/** @typedef {z.infer<typeof VisionConfig>} VisionConfig */

/**
 * Rows of its hidden states: the class and the patches.
 * @param {VisionConfig} config
 */
const lengthOf = ({ image_size: side, patch_size: patch }) => 1 + Math.floor(side / patch) ** 2;

/**
 * Weights that the features asked for do not need.
 * @param {string} name
 * @param {VisionConfig} config
 * @param {boolean} pooled
 */
export const isIdle = (name, { num_hidden_layers: layers }, pooled) =>
  name.endsWith('.position_ids') ||
  (!pooled &&
    (name.startsWith(`vision_model.encoder.layers.${layers - 1}.`) ||
      name.startsWith('vision_model.post_layernorm.') ||
      name.startsWith('visual_projection.')));

/**
 * A picture [N, 3, H, W] in [0, 1] → its projected features [N, D] where `pooled`, else the hidden
 * states before the last layer [N, L, D].
 * @param {Scope} scope
 * @param {Tensor} image
 * @param {VisionConfig} config
 * @param {boolean} pooled
 * @returns {Tensor}
 */
export function pictureFeatures(scope, image, config, pooled) {
  const { hidden_size: width, num_hidden_layers: layers, layer_norm_eps: eps } = config;
  const model = scope.at('vision_model');
  let x = embedded(model.at('embeddings'), prepared(image, config.image_size), config);
  x = layerNorm(model.at('pre_layrnorm'), x, eps);
  for (let i = 0; i < (pooled ? layers : layers - 1); i++) {
    scope.mark();
    x = layer(model.at('encoder', 'layers', i), x, config);
  }
  if (!pooled) return x;
  const first = reshape(slice(x, 1, 0, 1), [-1, width]);
  const normed = layerNorm(model.at('post_layernorm'), first, eps);
  return linear(scope.at('visual_projection'), normed, config.projection_dim, { bias: false });
}

/**
 * Class and patches with their positions, [N, L, D].
 * @param {Scope} scope
 * @param {Tensor} pixels
 * @param {VisionConfig} config
 */
function embedded(scope, pixels, config) {
  const { hidden_size: width, patch_size: patch } = config;
  const patches = conv(scope.at('patch_embedding'), pixels, width, {
    kernel: patch,
    stride: patch,
    padding: 0,
    bias: false,
  });
  const own = scope.param('class_embedding', [width], normal(0.02));
  const first = expand(reshape(own, [1, 1, width]), [pixels.dim(0), 1, width]);
  const place = scope.at('position_embedding');
  const positions = place.param('weight', [lengthOf(config), width], normal(0.02));
  return add(concat([first, toTokens(patches)], 1), positions);
}

/**
 * @param {Scope} scope
 * @param {Tensor} x
 * @param {VisionConfig} config
 */
function layer(scope, x, config) {
  const { hidden_size: width, num_attention_heads: heads, layer_norm_eps: eps } = config;
  const own = scope.at('self_attn');
  const seen = layerNorm(scope.at('layer_norm1'), x, eps);
  const [q, k, v] = ['q_proj', 'k_proj', 'v_proj'].map((name) => linear(own.at(name), seen, width));
  const value = own.site('attention', attend(q, k, v, heads), { q, k, v, heads });
  const after = add(x, linear(own.at('out_proj'), value, width));
  const mlp = scope.at('mlp');
  const normed = layerNorm(scope.at('layer_norm2'), after, eps);
  const act = config.hidden_act === 'gelu' ? gelu : quickGelu;
  const hidden = act(linear(mlp.at('fc1'), normed, config.intermediate_size));
  return add(after, linear(mlp.at('fc2'), hidden, width));
}

/** CLIP's own, per channel. */
const MEAN = [0.48145466, 0.4578275, 0.40821073];
const DEVIATION = [0.26862954, 0.26130258, 0.27577711];

/** @param {readonly number[]} list */
const perChannel = (list) => values(Float32Array.from(list), [3, 1, 1]);

/**
 * A picture of any size as CLIPImageProcessor makes it: the shorter side to `side` (bicubic, smoothed
 * when it shrinks), the middle square, CLIP's mean and deviation. Without its rounding to bytes.
 * @param {Tensor} image [N, 3, H, W] in [0, 1]
 * @param {number} side
 */
function prepared(image, side) {
  const [, , height, width] = image.shape;
  const short = Math.min(height, width);
  const long = (/** @type {number} */ size) =>
    size === short ? side : Math.floor((side * size) / short);
  const down = resizing(height, long(height), side);
  const across = resizing(width, long(width), side);
  const square = matmul(
    matmul(values(down, [side, height]), image),
    values(transposed(across, side, width), [width, side]),
  );
  return mul(sub(square, perChannel(MEAN)), perChannel(DEVIATION.map((one) => 1 / one)));
}

/**
 * The middle `kept` rows of the matrix [to, from] that resizes a line (Keys' cubic, a = −0.5, widened
 * by the factor of a reduction), row after row.
 * @param {number} from
 * @param {number} to
 * @param {number} kept
 */
function resizing(from, to, kept) {
  const step = from / to;
  const reach = Math.max(step, 1);
  const start = Math.floor((to - kept) / 2);
  const matrix = new Float32Array(kept * from);
  for (let row = 0; row < kept; row++) {
    const centre = (start + row + 0.5) * step;
    const weights = Array.from({ length: from }, (_, i) => cubic((i + 0.5 - centre) / reach));
    const sum = weights.reduce((a, b) => a + b, 0);
    matrix.set(
      weights.map((weight) => weight / sum),
      row * from,
    );
  }
  return matrix;
}

/** @param {number} x */
function cubic(x) {
  const d = Math.abs(x);
  if (d < 1) return (1.5 * d - 2.5) * d * d + 1;
  return d < 2 ? ((-0.5 * d + 2.5) * d - 4) * d + 2 : 0;
}

/**
 * @param {Float32Array} matrix
 * @param {number} rows
 * @param {number} columns
 */
const transposed = (matrix, rows, columns) =>
  Float32Array.from(matrix, (_, i) => matrix[(i % rows) * columns + Math.floor(i / rows)]);
