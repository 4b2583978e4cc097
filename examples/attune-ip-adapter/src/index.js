// @ts-check
import { dirname, join, resolve } from 'node:path';

import { adapterKind, checkFile, definePlugin, readJson, readWeights } from '@attune/core';
import { AttuneError, Weights } from '@attune/engine';
import { z } from 'zod';

import { ipAdapter } from './adapter.js';
import { crossAttentions, detect, keyIn, placed, projectionOf } from './file.js';
import { HEAD } from './projection.js';
import { isIdle, VisionConfig } from './vision.js';

/**
 * @import { AdapterFile } from '@attune/core'
 * @import { Projection } from './projection.js'
 */

export { ipAdapter } from './adapter.js';
export { VisionConfig } from './vision.js';

const count = z.int().positive();

const Options = z.strictObject({
  /**
   * A folder with CLIP's vision model (diffusers' `image_encoder`), relative to the file's own: the
   * adapter then reads a picture, `image`, in place of `image_embeds`.
   */
  image_encoder: z.string().min(1).optional(),
  /** Of a fresh one, without a file. */
  variant: z.enum(['base', 'plus']).default('base'),
  tokens: count.default(4),
  /** Width of the features that a fresh one reads; with an encoder, the encoder's own. */
  features: count.optional(),
  /** Width and layers of a fresh Plus. */
  width: count.multipleOf(HEAD).default(768),
  layers: count.default(4),
});
/** @typedef {z.infer<typeof Options>} Options */

/**
 * The encoder's config and the weights that the projection needs, under `image_encoder.`
 * @param {string} folder
 * @param {boolean} pooled
 */
function encoderFrom(folder, pooled) {
  const where = join(folder, 'config.json');
  const config = checkFile(VisionConfig, readJson(where), where);
  const weights = readWeights(folder).renamed((name) =>
    isIdle(name, config, pooled) ? undefined : `image_encoder.${name}`,
  );
  return { config, weights };
}

/**
 * @param {Options} options
 * @param {VisionConfig | undefined} encoder
 * @returns {Projection}
 */
function freshProjection({ variant, tokens, features, width, layers }, encoder) {
  if (variant === 'base')
    return { kind: variant, tokens, features: encoder?.projection_dim ?? features ?? 1024 };
  const seen = encoder?.hidden_size ?? features ?? 1280;
  return { kind: variant, tokens, features: seen, width, heads: width / HEAD, layers };
}

/**
 * An encoder whose features are not what the file's projection reads.
 * @param {Projection} projection
 * @param {VisionConfig} encoder
 * @param {string} folder
 */
function checkWidth({ kind, features }, encoder, folder) {
  const given = kind === 'base' ? encoder.projection_dim : encoder.hidden_size;
  if (given !== features)
    throw new AttuneError(
      'IP_ADAPTER_ENCODER',
      `The image encoder in ${folder} gives features of width ${given}; the adapter reads ${features}. Take the encoder it was trained with.`,
      { folder, given, features },
    );
}

export default definePlugin({
  api: 1,
  contributes: {
    adapters: {
      'ip-adapter': adapterKind({
        options: Options,
        detect,
        create: ({ file, model, ...common }, options) => {
          const places = crossAttentions(model);
          const told = file && projectionOf(file);
          const folder =
            options.image_encoder === undefined
              ? undefined
              : resolve(file ? dirname(file.path) : '.', options.image_encoder);
          const pooled = (told?.kind ?? options.variant) === 'base';
          const encoder = folder === undefined ? undefined : encoderFrom(folder, pooled);
          const projection = told ?? freshProjection(options, encoder?.config);
          if (folder !== undefined && encoder) checkWidth(projection, encoder.config, folder);
          const seen = encoder?.weights ?? Weights.fromArrays({});
          return ipAdapter({
            ...common,
            projection,
            fileKey: keyIn(places),
            ...(encoder ? { encoder: encoder.config, initial: encoder.weights } : {}),
            ...(file ? { weights: Weights.overlay(seen, placed(file, places)) } : {}),
          });
        },
      }),
    },
  },
});
