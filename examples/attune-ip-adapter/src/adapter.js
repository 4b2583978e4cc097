// @ts-check
/** IP-Adapter (Ye et al. 2023, arXiv 2308.06721): cross-attention over a picture's tokens, beside that over the text. */

import { attend, linear, zeros } from '@attune/core';

import { imageTokens } from './projection.js';
import { pictureFeatures } from './vision.js';

/**
 * @import { Adapter, Ports, Strength } from '@attune/core'
 * @import { Weights } from '@attune/engine'
 * @import { Projection } from './projection.js'
 * @import { VisionConfig } from './vision.js'
 */

/**
 * @typedef {object} IpAdapterOptions
 * @property {string} [name]
 * @property {Projection} projection
 * @property {VisionConfig} [encoder] where the adapter reads a picture instead of its features
 * @property {number} [length] rows of the features that it is usually fed; more or fewer are fine
 * @property {Weights} [weights]
 * @property {Weights} [initial]
 * @property {(name: string) => string} [fileKey]
 * @property {Strength} [strength]
 * @property {true | readonly string[]} [train]
 */

/**
 * Ports, all per clip (1, B or B·F rows): `image` [3, H, W] in [0, 1] of any size where there is an
 * encoder; else `image_embeds`, features [D] of the picture, or hidden states [L, D] for Plus and Full.
 * A fresh adapter changes nothing: its values start at zero.
 * @param {IpAdapterOptions} options
 * @returns {Adapter}
 */
export function ipAdapter({
  name = 'ip',
  projection,
  encoder,
  length = 257,
  weights,
  initial,
  fileKey,
  strength,
  train,
}) {
  const pooled = projection.kind === 'base';
  const { features } = projection;
  /** @type {Ports} */
  const ports = encoder
    ? {
        image: {
          per: 'clip',
          takes: 'image',
          source: 'input',
          about: 'the picture that is a prompt',
          shape: () => [3, encoder.image_size, encoder.image_size],
        },
      }
    : { image_embeds: { per: 'clip', shape: () => (pooled ? [features] : [length, features]) } };
  return {
    name,
    ports,
    commutes: true,
    ...(weights ? { weights } : {}),
    ...(initial ? { initial } : {}),
    ...(fileKey ? { fileKey } : {}),
    ...(strength === undefined ? {} : { strength }),
    ...(train ? { train: encoder && train === true ? ['image_proj.**', 'unet.**'] : train } : {}),
    attach: (root, given) => {
      const { call } = root;
      const prompt = () =>
        call.once(`${name}.image_proj`, () => {
          const x = encoder
            ? pictureFeatures(root.at('image_encoder'), given.image, encoder, pooled)
            : given.image_embeds;
          const width = call.inputs.encoder_hidden_states.dim(-1);
          return imageTokens(root.at('image_proj'), x, projection, width);
        });
      return [
        {
          at: 'attention:unet.**.attn2',
          delta: (_, { attention, scope }) => {
            const { q, heads } = /** @type {NonNullable<typeof attention>} */ (attention);
            const inner = q.dim(-1);
            const k = linear(scope.at('to_k_ip'), prompt(), inner, { bias: false });
            const v = linear(scope.at('to_v_ip'), prompt(), inner, { bias: false, init: zeros });
            return attend(q, k, v, heads);
          },
        },
      ];
    },
  };
}
