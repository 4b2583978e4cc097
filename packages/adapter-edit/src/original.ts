/** ControlNets as their own code saves them: an encoder in the original layout, a hint block, zero convs. */

import { fromLdm, inferUNet, isLdm, ldmLayers } from '@attune/core';
import type { Weights } from '@attune/engine';

const PREFIX = 'control_model.';

/** The same weights under diffusers' names; undefined for a file that is no original ControlNet. */
export function diffusersNames(file: Weights): Weights | undefined {
  const wrapped = [...file.names()].some((name) => name.startsWith(PREFIX));
  const weights = wrapped ? file.under(PREFIX) : file;
  if (!isLdm(weights) || !weights.has('input_hint_block.0.weight')) return undefined;
  const layers = ldmLayers(weights);
  const hints = [...weights.names()].flatMap((name) =>
    Number(/^input_hint_block\.(\d+)\.weight$/.exec(name)?.[1] ?? []),
  );
  const last = Math.max(...hints);
  // A name that nothing explains is kept, so that it is reported by the name the file has.
  return weights.renamed((name) => control(name, last) ?? fromLdm(name, layers) ?? name);
}

function control(name: string, lastHint: number): string | undefined {
  const [, part, index, leaf] =
    /^(input_hint_block|zero_convs|middle_block_out)\.(\d+)\.(.+)$/.exec(name) ?? [];
  const n = Number(index);
  switch (part) {
    case 'input_hint_block': {
      const own = 'controlnet_cond_embedding';
      if (n === 0) return `${own}.conv_in.${leaf}`;
      return n === lastHint ? `${own}.conv_out.${leaf}` : `${own}.blocks.${n / 2 - 1}.${leaf}`;
    }
    case 'zero_convs':
      return leaf.startsWith('0.') ? `controlnet_down_blocks.${n}.${leaf.slice(2)}` : undefined;
    case 'middle_block_out':
      return `controlnet_mid_block.${leaf}`;
    default:
      return undefined;
  }
}

/** What names and shapes tell of a file without a config, under diffusers' names. */
export function inferredConfig(weights: Weights): Record<string, unknown> {
  const own = 'controlnet_cond_embedding';
  const channels = [weights.entry(`${own}.conv_in.weight`).shape[0]];
  for (let i = 1; weights.has(`${own}.blocks.${i}.weight`); i += 2)
    channels.push(weights.entry(`${own}.blocks.${i}.weight`).shape[0]);
  const { up_block_types: _, ...encoder } = inferUNet(weights);
  return {
    ...encoder,
    conditioning_embedding_out_channels: channels,
    conditioning_channels: weights.entry(`${own}.conv_in.weight`).shape[1],
  };
}
