/** Motion modules in another layout: AnimateDiff's own, one file, or diffusers', a folder with its config. */

import { checkTold, type WriteRequest, type Written } from '@attune/core';
import { AttuneError, f32, type NDArray, Weights } from '@attune/engine';

import { VideoConfig } from './config.ts';
import { readMotion } from './file.ts';
import { inferredConfig, originalName } from './original.ts';
import { sinusoids } from './temporal.ts';

const TABLE = '.pos_embed.pe';

type Target = (tensors: Weights, config: VideoConfig, path: string) => Written;

const arrays = (tensors: Weights, names: (name: string) => readonly string[]) =>
  Object.fromEntries(
    [...tensors.names()].flatMap((name) => {
      const value = tensors.entry(name).load();
      return names(name).map((own) => [own, value] as const);
    }),
  );

const targets: Readonly<Record<string, Target>> = {
  animatediff: (tensors, config, path) => {
    const told = VideoConfig.parse(inferredConfig(tensors));
    const keys = Object.keys(VideoConfig.shape);
    checkTold(config, told, { dialect: 'AnimateDiff', path, keys });
    return { tensors: arrays(tensors, originalNames), metadata: { format: 'pt' } };
  },
  diffusers: (tensors, config) => ({
    tensors: arrays(tensors, (name) => [name]),
    metadata: { format: 'pt' },
    folder: {
      file: 'diffusion_pytorch_model.safetensors',
      configs: { 'config.json': { _class_name: 'MotionAdapter', ...config } },
    },
  }),
};

export const dialects = Object.keys(targets);

/**
 * The file in another layout.
 *
 * @throws NOT_EXPRESSIBLE where AnimateDiff's would be read with another config
 */
export function writeMotion({ file, dialect, rank }: WriteRequest): Written {
  if (rank !== undefined)
    throw new AttuneError('USAGE', `${file.path} holds motion modules: a rank is for LoRAs.`);
  const { config, weights } = readMotion(file);
  return targets[dialect](withTables(weights, config), config, file.path);
}

/** Both attentions of a block have a table of their own there. */
const originalNames = (name: string): string[] =>
  name.endsWith(TABLE)
    ? [0, 1].map((attention) =>
        originalName(
          `${name.slice(0, -TABLE.length)}.attention_blocks.${attention}.pos_encoder.pe`,
        ),
      )
    : [originalName(name)];

const firstNorm = /^(.+\.transformer_blocks\.\d+)\.norm1\.weight$/;

/** The weights with the position table of every block, which not every file stores. */
function withTables(weights: Weights, { motion_max_seq_length: frames }: VideoConfig): Weights {
  const tables: Record<string, NDArray> = {};
  for (const name of weights.names()) {
    const table = `${firstNorm.exec(name)?.[1]}${TABLE}`;
    if (!firstNorm.test(name) || weights.has(table)) continue;
    const [channels] = weights.entry(name).shape;
    tables[table] = f32(sinusoids(frames, channels), [1, frames, channels]);
  }
  return Weights.overlay(weights, Weights.fromArrays(tables));
}
