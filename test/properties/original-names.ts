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
