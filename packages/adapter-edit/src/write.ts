/** A ControlNet in another layout: the original code's, one file, or diffusers', a folder with its config. */

import { checkFile, checkTold, toLdm, type WriteRequest, type Written } from '@attune/core';
import { AttuneError, type NDArray, type Weights } from '@attune/engine';

import { EditConfig } from './config.ts';
import { readControl } from './file.ts';
import { inferredConfig, originalControl, PREFIX } from './original.ts';

type Target = (weights: Weights, config: EditConfig, path: string) => Written;

/** What only a decoder, or a net that is not told by its weights, is made with. */
const unused =
  /^(up_|out_|conv_out|sample_size|reverse_|mid_block_only|num_attention_heads|attention_head_dim)/;

const targets: Readonly<Record<string, Target>> = {
  ldm: (weights, config, path) => {
    const told = heads(EditConfig.parse(inferredConfig(weights)));
    const keys = Object.keys(EditConfig.shape).filter((key) => !unused.test(key));
    checkTold(heads(config), told, {
      dialect: 'original ControlNet',
      path,
      keys: [...keys, 'heads'],
    });
    const layout = {
      layers: [config.layers_per_block].flat()[0],
      attends: () => false,
    };
    const hints = 2 * config.conditioning_embedding_out_channels.length - 2;
    const tensors: Record<string, NDArray> = {};
    for (const name of weights.names()) {
      const own = originalControl(name, hints) ?? toLdm(name, layout);
      if (own === undefined)
        throw new AttuneError(
          'NOT_EXPRESSIBLE',
          `The original layout has no name for ${name} of ${path}: keep it in diffusers' layout.`,
          { name },
        );
      tensors[PREFIX + own] = weights.entry(name).load();
    }
    return { tensors, metadata: { format: 'pt' } };
  },
  diffusers: (weights, config) => ({
    tensors: Object.fromEntries(
      [...weights.names()].map((name) => [name, weights.entry(name).load()]),
    ),
    metadata: { format: 'pt' },
    folder: {
      file: 'diffusion_pytorch_model.safetensors',
      configs: { 'config.json': { _class_name: 'ControlNetModel', ...config } },
    },
  }),
};

export const dialects = Object.keys(targets);

const heads = (config: EditConfig): Readonly<Record<string, unknown>> => ({
  ...config,
  heads: config.num_attention_heads ?? config.attention_head_dim,
});

/**
 * The file in another layout; a difference or a Control-LoRA as the whole that it makes of the base.
 *
 * @throws NOT_EXPRESSIBLE where the original layout would be read with another config, or lacks a name
 */
export function writeControl({ file, model, dialect, rank }: WriteRequest): Written {
  if (rank !== undefined)
    throw new AttuneError('USAGE', `${file.path} is a ControlNet: a rank is for LoRAs.`);
  const { weights, config } = readControl(file, model);
  return targets[dialect](weights, checkFile(EditConfig, config, file.path), file.path);
}
