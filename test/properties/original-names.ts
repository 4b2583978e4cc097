/** Names of the original latent-diffusion code, written after that code. */

const parts = {
  norm1: 'in_layers.0',
  conv1: 'in_layers.2',
  time_emb_proj: 'emb_layers.1',
  norm2: 'out_layers.0',
  conv2: 'out_layers.3',
  conv_shortcut: 'skip_connection',
};

/**
 * Places of a UNet of so many levels and residual blocks as CompVis' constructor counts them, under
 * diffusers' names: written after that code, not after ours.
 */
export function places(attends: readonly boolean[], layers: number): Map<string, string> {
  const found = new Map<string, string>([
    ['conv_in', 'input_blocks.0.0'],
    ['time_embedding.linear_1', 'time_embed.0'],
    ['time_embedding.linear_2', 'time_embed.2'],
    ['conv_norm_out', 'out.0'],
    ['conv_out', 'out.2'],
    ['mid_block.attentions.0', 'middle_block.1'],
  ]);
  const resnet = (name: string, place: string): void => {
    for (const [own, other] of Object.entries(parts))
      found.set(`${name}.${own}`, `${place}.${other}`);
  };
  resnet('mid_block.resnets.0', 'middle_block.0');
  resnet('mid_block.resnets.1', 'middle_block.2');
  let input = 0;
  for (const [level, attention] of attends.entries()) {
    for (let layer = 0; layer < layers; layer++) {
      input++;
      resnet(`down_blocks.${level}.resnets.${layer}`, `input_blocks.${input}.0`);
      if (attention)
        found.set(`down_blocks.${level}.attentions.${layer}`, `input_blocks.${input}.1`);
    }
    if (level + 1 < attends.length)
      found.set(`down_blocks.${level}.downsamplers.0.conv`, `input_blocks.${++input}.0.op`);
  }
  let output = 0;
  for (const [up, attention] of attends.toReversed().entries())
    for (let layer = 0; layer <= layers; layer++, output++) {
      resnet(`up_blocks.${up}.resnets.${layer}`, `output_blocks.${output}.0`);
      if (attention) found.set(`up_blocks.${up}.attentions.${layer}`, `output_blocks.${output}.1`);
      if (layer === layers && up + 1 < attends.length)
        found.set(
          `up_blocks.${up}.upsamplers.0.conv`,
          `output_blocks.${output}.${attention ? 2 : 1}.conv`,
        );
    }
  return found;
}

/** The name of a weight of a UNet or of its encoder there. */
export function original(name: string, known: ReadonlyMap<string, string>): string | undefined {
  const found = [...known]
    .toSorted(([a], [b]) => b.length - a.length)
    .find(([own]) => name === own || name.startsWith(`${own}.`));
  return found && found[1] + name.slice(found[0].length);
}

/**
 * The name of a ControlNet's weight there.
 *
 * @param blocks number of the hint encoder's blocks
 */
export const originalControl = (
  name: string,
  known: ReadonlyMap<string, string>,
  blocks: number,
): string =>
  original(name, known) ??
  name
    .replace('controlnet_cond_embedding.conv_in', 'input_hint_block.0')
    .replace('controlnet_cond_embedding.conv_out', `input_hint_block.${2 * (blocks + 1)}`)
    .replace(
      /controlnet_cond_embedding\.blocks\.(\d+)/,
      (_, i: string) => `input_hint_block.${2 * (Number(i) + 1)}`,
    )
    .replace(/controlnet_down_blocks\.(\d+)/, 'zero_convs.$1.0')
    .replace('controlnet_mid_block', 'middle_block_out.0');

/** The name of a motion module's weight there; of a position table, the first attention's. */
export const originalMotion = (name: string): string =>
  name
    .replace(/(motion_modules\.\d+)\./, '$1.temporal_transformer.')
    .replace('.attn1.', '.attention_blocks.0.')
    .replace('.attn2.', '.attention_blocks.1.')
    .replace('.norm3.', '.ff_norm.')
    .replace(/\.norm([12])\./, (_, i: string) => `.norms.${Number(i) - 1}.`)
    .replace('.pos_embed.pe', '.attention_blocks.0.pos_encoder.pe');

/** The name of an autoencoder's weight there: the decoder's levels are counted from the other end. */
export const originalVae = (name: string, levels: number): string =>
  name
    .replace(/up_blocks\.(\d+)\./, (_, i: string) => `up.${levels - 1 - Number(i)}.`)
    .replace(/down_blocks\.(\d+)\./, 'down.$1.')
    .replace('mid_block.resnets.0', 'mid.block_1')
    .replace('mid_block.resnets.1', 'mid.block_2')
    .replace('mid_block.attentions.0.group_norm', 'mid.attn_1.norm')
    .replace(/mid_block\.attentions\.0\.to_([qkv])\./, 'mid.attn_1.$1.')
    .replace('mid_block.attentions.0.to_out.0', 'mid.attn_1.proj_out')
    .replace('.resnets.', '.block.')
    .replace('.downsamplers.0.', '.downsample.')
    .replace('.upsamplers.0.', '.upsample.')
    .replace('conv_shortcut', 'nin_shortcut')
    .replace('conv_norm_out', 'norm_out');
