/** The autoencoder of the original latent-diffusion code (CompVis), under diffusers' names. */

import { reshaped, type WeightEntry, Weights } from '@attune/engine';

/** Parts that are called otherwise wherever they are. */
const parts: readonly (readonly [from: RegExp, to: string])[] = [
  [/\bmid\.block_1\b/, 'mid_block.resnets.0'],
  [/\bmid\.block_2\b/, 'mid_block.resnets.1'],
  [/\bmid\.attn_1\.norm\b/, 'mid_block.attentions.0.group_norm'],
  [/\bmid\.attn_1\.([qkv])\b/, 'mid_block.attentions.0.to_$1'],
  [/\bmid\.attn_1\.proj_out\b/, 'mid_block.attentions.0.to_out.0'],
  [/\bnin_shortcut\b/, 'conv_shortcut'],
  [/\bnorm_out\b/, 'conv_norm_out'],
  [/\bdown\.(\d+)\.block\./, 'down_blocks.$1.resnets.'],
  [/\bdown\.(\d+)\.downsample\./, 'down_blocks.$1.downsamplers.0.'],
];

/** How many of `name(0)`, `name(1)`, … there are. */
const count = (weights: Weights, name: (i: number) => string): number => {
  let i = 0;
  while (weights.has(name(i))) i++;
  return i;
};

/** The same weights as diffusers has them: its decoder counts levels from the other end. */
export function fromLdmVae(weights: Weights): Weights {
  const levels = count(weights, (i) => `decoder.up.${i}.block.0.norm1.weight`);
  const up = (_: string, level: string, kind: string): string =>
    `up_blocks.${levels - 1 - Number(level)}.${kind === 'block' ? 'resnets.' : 'upsamplers.0.'}`;
  const named = weights.renamed((name) =>
    parts
      .reduce((word, [from, to]) => word.replace(from, to), name)
      .replace(/\bup\.(\d+)\.(block|upsample)\./, up),
  );
  return Weights.fromEntries([...named.names()].map((name) => [name, asLinear(named.entry(name))]));
}

/** Attention's projections are convolutions of 1 × 1 there. */
function asLinear(entry: WeightEntry): WeightEntry {
  const { name, shape } = entry;
  const projection = /\.attentions\.0\.to_.*\.weight$/.test(name);
  return projection && shape.length === 4 ? reshaped(entry, shape.slice(0, 2)) : entry;
}

/** What names and shapes tell of an autoencoder, under diffusers' names. */
export function inferVae(weights: Weights): Record<string, unknown> {
  const levels = count(weights, (i) => `encoder.down_blocks.${i}.resnets.0.norm1.weight`);
  const widths = Array.from(
    { length: levels },
    (_, i) => weights.entry(`encoder.down_blocks.${i}.resnets.0.conv1.weight`).shape[0],
  );
  const quantised = weights.has('quant_conv.weight');
  return {
    in_channels: weights.entry('encoder.conv_in.weight').shape[1],
    out_channels: weights.entry('decoder.conv_out.weight').shape[0],
    block_out_channels: widths,
    down_block_types: widths.map(() => 'DownEncoderBlock2D'),
    up_block_types: widths.map(() => 'UpDecoderBlock2D'),
    layers_per_block: count(weights, (j) => `encoder.down_blocks.0.resnets.${j}.norm1.weight`),
    latent_channels: weights.entry('decoder.conv_in.weight').shape[1],
    use_quant_conv: quantised,
    use_post_quant_conv: weights.has('post_quant_conv.weight'),
    scaling_factor: 0.18215,
  };
}
