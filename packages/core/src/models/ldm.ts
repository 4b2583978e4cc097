/**
 * The UNet of the original latent-diffusion code (CompVis), under diffusers' names: its blocks are one
 * list, `input_blocks.N` and `output_blocks.N`, which diffusers cuts into levels.
 */

import type { Weights } from '@attune/engine';

/** Parts of a residual block, from the original's names to diffusers'. */
const resnetParts: readonly (readonly [string, string])[] = [
  ['in_layers.0', 'norm1'],
  ['in_layers.2', 'conv1'],
  ['emb_layers.1', 'time_emb_proj'],
  ['out_layers.0', 'norm2'],
  ['out_layers.3', 'conv2'],
  ['skip_connection', 'conv_shortcut'],
];

const single: readonly (readonly [string, string])[] = [
  ['time_embed.0', 'time_embedding.linear_1'],
  ['time_embed.2', 'time_embedding.linear_2'],
  ['input_blocks.0.0', 'conv_in'],
  ['out.0', 'conv_norm_out'],
  ['out.2', 'conv_out'],
];

/** Whether these are names of the original UNet or of a copy of its encoder. */
export const isLdm = (weights: Weights): boolean => weights.has('input_blocks.0.0.weight');

/** Residual blocks per level of the encoder: the first downsampling ends the first level. */
export function ldmLayers(weights: Weights): number {
  let at = 1;
  while (weights.has(`input_blocks.${at}.0.in_layers.0.weight`)) at++;
  return at - 1;
}

/** diffusers' name of a weight of the original UNet; undefined for a name it does not have. */
export function fromLdm(name: string, layers: number): string | undefined {
  for (const [from, to] of single)
    if (name.startsWith(`${from}.`)) return to + name.slice(from.length);
  const found = /^(input_blocks|middle_block|output_blocks)\.(\d+)\.(.+)$/.exec(name);
  if (!found) return undefined;
  const [, part, index, rest] = found;
  const n = Number(index);
  if (part === 'middle_block')
    return n === 1 ? `mid_block.attentions.0.${rest}` : resnet(`mid_block.resnets.${n / 2}`, rest);
  const [, inner, tail] = /^(\d+)\.(.+)$/.exec(rest) ?? [];
  if (inner === undefined) return undefined;
  if (part === 'input_blocks') {
    const [level, layer] = [Math.floor((n - 1) / (layers + 1)), (n - 1) % (layers + 1)];
    const block = `down_blocks.${level}`;
    if (layer === layers)
      return tail.startsWith('op.') ? `${block}.downsamplers.0.conv${tail.slice(2)}` : undefined;
    return inner === '0'
      ? resnet(`${block}.resnets.${layer}`, tail)
      : `${block}.attentions.${layer}.${tail}`;
  }
  const [level, layer] = [Math.floor(n / (layers + 1)), n % (layers + 1)];
  const block = `up_blocks.${level}`;
  if (inner === '0') return resnet(`${block}.resnets.${layer}`, tail);
  return tail.startsWith('conv.')
    ? `${block}.upsamplers.0.${tail}`
    : `${block}.attentions.${layer}.${tail}`;
}

function resnet(block: string, rest: string): string | undefined {
  for (const [from, to] of resnetParts)
    if (rest.startsWith(`${from}.`)) return `${block}.${to}${rest.slice(from.length)}`;
  return undefined;
}

/** What decides the original's numbering of blocks. */
export interface LdmLayout {
  /** Residual blocks per level of the encoder. */
  readonly layers: number;
  /** Whether a level of the decoder has attention: its upsampling layer comes after it. */
  readonly attends: (level: number) => boolean;
}

/** The original UNet's name of a weight or layer, from diffusers'; undefined for a name it does not have. */
export function toLdm(name: string, { layers, attends }: LdmLayout): string | undefined {
  for (const [to, from] of single)
    if (name === from || name.startsWith(`${from}.`)) return to + name.slice(from.length);
  const found =
    /^(?:(down|up)_blocks\.(\d+)|mid_block)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)$/.exec(
      name,
    );
  if (!found) return undefined;
  const [, half, level, kind, index, rest] = found;
  const tail = kind === 'resnets' ? originalPart(rest) : rest;
  if (tail === undefined) return undefined;
  if (half === undefined)
    return `middle_block.${kind === 'attentions' ? 1 : 2 * Number(index)}.${tail}`;
  const first = Number(level) * (layers + 1);
  const place = kind === 'attentions' ? 1 : 0;
  if (half === 'down')
    return kind === 'downsamplers'
      ? `input_blocks.${first + 1 + layers}.0.${tail.replace(/^conv/, 'op')}`
      : `input_blocks.${first + 1 + Number(index)}.${place}.${tail}`;
  return kind === 'upsamplers'
    ? `output_blocks.${first + layers}.${attends(Number(level)) ? 2 : 1}.${tail}`
    : `output_blocks.${first + Number(index)}.${place}.${tail}`;
}

/** A part of a residual block, from diffusers' name. */
function originalPart(rest: string): string | undefined {
  for (const [to, from] of resnetParts)
    if (rest === from || rest.startsWith(`${from}.`)) return to + rest.slice(from.length);
  return undefined;
}

/** What names and shapes tell of a UNet, or of a copy of its encoder, under diffusers' names. */
export function inferUNet(weights: Weights): Record<string, unknown> {
  const shape = (name: string) => weights.entry(name).shape;
  const count = (name: (i: number) => string): number => {
    let i = 0;
    while (weights.has(name(i))) i++;
    return i;
  };
  const levels = count((i) => `down_blocks.${i}.resnets.0.norm1.weight`);
  const widths = Array.from(
    { length: levels },
    (_, i) => shape(`down_blocks.${i}.resnets.0.conv1.weight`)[0],
  );
  const attends = (half: string, i: number): boolean =>
    weights.has(`${half}_blocks.${i}.attentions.0.norm.weight`);
  const block = 'mid_block.attentions.0';
  const text = `${block}.transformer_blocks.0.attn2.to_k.weight`;
  const context = weights.has(text) ? shape(text)[1] : undefined;
  const linear =
    weights.has(`${block}.proj_in.weight`) && shape(`${block}.proj_in.weight`).length === 2;
  return {
    in_channels: shape('conv_in.weight')[1],
    block_out_channels: widths,
    layers_per_block: count((j) => `down_blocks.0.resnets.${j}.norm1.weight`),
    down_block_types: widths.map((_, i) =>
      attends('down', i) ? 'CrossAttnDownBlock2D' : 'DownBlock2D',
    ),
    up_block_types: widths.map((_, i) => (attends('up', i) ? 'CrossAttnUpBlock2D' : 'UpBlock2D')),
    use_linear_projection: linear,
    // Stable Diffusion 1 has 8 heads at every level, 2 has heads of 64 channels.
    attention_head_dim: context === 1024 ? widths.map((width) => width / 64) : 8,
    ...(context === undefined ? {} : { cross_attention_dim: context }),
  };
}
