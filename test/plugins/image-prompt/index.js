/** A second prompt made of image tokens: every cross-attention reads them beside the text (IP-Adapter, arXiv 2308.06721). */

import { adapterKind, attend, definePlugin, layerNorm, linear, zeros } from '@attune/core';
import { z } from 'zod';

/**
 * Port `tokens` [1 | B | B·F, count, width]. Each cross-attention gets keys and values of its own for
 * them; the values start at zero, so that a fresh adapter changes nothing.
 */
export const imagePrompt = ({ name, count, width, ...common }) => ({
  ...common,
  name,
  commutes: true,
  ports: { tokens: { per: 'clip', shape: () => [count, width] } },
  attach: (root, ports) => {
    const prompt = () =>
      root.call.once(`${name}.norm`, () => layerNorm(root.at('norm'), ports.tokens));
    return [
      {
        at: 'attention:unet.**.attn2',
        delta: (_, { attention: { q, heads }, scope }) => {
          const inner = q.dim(-1);
          const k = linear(scope.at('to_k_ip'), prompt(), inner, { bias: false });
          const v = linear(scope.at('to_v_ip'), prompt(), inner, { bias: false, init: zeros });
          return attend(q, k, v, heads);
        },
      },
    ];
  },
});

export default definePlugin({
  api: 1,
  contributes: {
    adapters: {
      'image-prompt': adapterKind({
        options: z.strictObject({
          count: z.int().positive().default(4),
          width: z.int().positive().default(8),
        }),
        create: ({ model: _, file, ...common }, options) =>
          imagePrompt({ ...common, ...options, ...(file ? { weights: file.weights } : {}) }),
      }),
    },
  },
});
