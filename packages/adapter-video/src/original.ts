/**
 * Motion modules as AnimateDiff's own code saves them (v1, v2, v3): other names, a position table in every
 * attention, no config beside them.
 */

import type { AdapterFile, ScheduleConfig } from '@attune/core';
import { AttuneError, type Weights } from '@attune/engine';

import type { VideoConfig } from './config.ts';

const MARK = '.temporal_transformer.';

/** Parts of a name, from AnimateDiff's to diffusers'; both attentions share one position table there. */
const parts: readonly (readonly [RegExp, string])[] = [
  [/^module\./, ''],
  [/\.temporal_transformer\./, '.'],
  [/\.attention_blocks\.0\.pos_encoder\.pe$/, '.pos_embed.pe'],
  [/\.attention_blocks\.0\./, '.attn1.'],
  [/\.attention_blocks\.1\./, '.attn2.'],
  [/\.norms\.0\./, '.norm1.'],
  [/\.norms\.1\./, '.norm2.'],
  [/\.ff_norm\./, '.norm3.'],
];

/** The second attention's own table: the same as the first's, or it would be lost. */
const SECOND = /\.attention_blocks\.1\.pos_encoder\.pe$/;

/** What every AnimateDiff motion module was trained with: linear β, where Stable Diffusion's are scaled_linear. */
export const animateDiffNoise: Partial<ScheduleConfig> = {
  num_train_timesteps: 1000,
  beta_schedule: 'linear',
  beta_start: 0.00085,
  beta_end: 0.012,
  rescale_betas_zero_snr: false,
  prediction_type: 'epsilon',
};

const FIRST = 'down_blocks.0.motion_modules.0.norm.weight';

/**
 * The family of models that motion modules, under diffusers' names, have the widths of: Stable Diffusion 1 has
 * four levels, XL three.
 */
export function familyOf(weights: Weights): 'sd1' | 'sdxl' | undefined {
  if (!weights.has(FIRST) || weights.entry(FIRST).shape[0] !== 320) return undefined;
  const levels = [2, 3].filter((level) =>
    weights.has(FIRST.replace('down_blocks.0', `down_blocks.${level}`)),
  );
  return levels.includes(3) ? 'sd1' : levels.includes(2) ? 'sdxl' : undefined;
}

/** Whether weights, under diffusers' names, have the widths of AnimateDiff's modules for Stable Diffusion 1. */
export const hasSd1Widths = (weights: Weights): boolean => familyOf(weights) === 'sd1';

export const isOriginal = (weights: Weights): boolean =>
  [...weights.names()].some((name) => name.includes(MARK));

/** The same weights under diffusers' names; names of other layouts stay as they are. */
export function diffusersNames(weights: Weights): Weights {
  if (!isOriginal(weights)) return weights;
  return weights.renamed((name) =>
    SECOND.test(name)
      ? undefined
      : parts.reduce((word, [from, to]) => word.replace(from, to), name),
  );
}

/** AnimateDiff's name of a layer, from diffusers': what its motion LoRAs call it. */
export function originalName(layer: string): string {
  const inner = layer
    .replace('.attn1', '.attention_blocks.0')
    .replace('.attn2', '.attention_blocks.1')
    .replace('.norm1', '.norms.0')
    .replace('.norm2', '.norms.1')
    .replace('.norm3', '.ff_norm');
  return inner.replace(/(\.motion_modules\.\d+)\./, `$1${MARK}`);
}

/** Throws TWO_TABLES where the two attentions of a block have different position tables. */
export function checkTables({ path, weights }: Pick<AdapterFile, 'path' | 'weights'>): void {
  for (const name of weights.names()) {
    if (!SECOND.test(name)) continue;
    const first = name.replace('.attention_blocks.1.', '.attention_blocks.0.');
    const [a, b] = [first, name].map((one) => weights.entry(one).load());
    if (a.data.length !== b.data.length || a.data.some((value, i) => value !== b.data[i]))
      throw new AttuneError(
        'TWO_TABLES',
        `${path}: ${first} and ${name} differ, and here one position table serves both attentions: where they differ by rounding alone, save the file with the same one twice; otherwise take other motion modules.`,
        { path, name },
      );
  }
}

/** More levels than any config may have; names may count to anything. */
const MOST_LEVELS = 64;

/** What shapes and names tell of a file without a config, under diffusers' names. */
export function inferredConfig(weights: Weights): Partial<VideoConfig> {
  const names = [...weights.names()];
  const count = (pattern: RegExp): number =>
    names.reduce((most, name) => Math.max(most, 1 + Number(pattern.exec(name)?.[1] ?? -1)), 0);
  const levels = Math.min(count(/^down_blocks\.(\d+)\./), MOST_LEVELS);
  const width = (level: number): number => {
    const name = `down_blocks.${level}.motion_modules.0.norm.weight`;
    return weights.entry(name).shape[0];
  };
  const table = names.find((name) => name.endsWith('.pos_embed.pe'));
  return {
    block_out_channels: Array.from({ length: levels }, (_, level) => width(level)),
    motion_layers_per_block: count(/^down_blocks\.0\.motion_modules\.(\d+)\./),
    motion_transformer_layers_per_block: count(/^down_blocks\.0\..*\.transformer_blocks\.(\d+)\./),
    use_motion_mid_block: names.some((name) => name.startsWith('mid_block.')),
    ...(table ? { motion_max_seq_length: weights.entry(table).shape[1] } : {}),
  };
}
