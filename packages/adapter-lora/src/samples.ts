/** One file of each spelling and of each algorithm, by the keys of one module. */

import type { FormatSample } from '@attune/core';

import { type AlgorithmName, algorithms } from './algorithms.ts';
import type { Dialect } from './names.ts';
import { relatives } from './survey.ts';

const layer = 'mid_block.attentions.0.transformer_blocks.0.attn1.to_q';
const flat = `lora_unet_${layer.replaceAll('.', '_')}`;
const matrices = (module: string): string[] => ['A', 'B'].map((x) => `${module}.lora_${x}.weight`);
const sides = (module: string): string[] =>
  ['down', 'up'].map((side) => `${module}.lora_${side}.weight`);

const spellings: Readonly<Record<Dialect, FormatSample>> = {
  diffusers: { keys: matrices(`unet.${layer}`), about: 'rank and alpha in the header' },
  'diffusers before 0.19': {
    keys: ['down', 'up'].map(
      (side) => `unet.${layer.replace('to_q', `processor.to_q_lora.${side}.weight`)}`,
    ),
    about: 'attention processors, also without `unet.`, and `.lora.down`',
  },
  animatediff: {
    keys: ['down', 'up'].map(
      (side) =>
        `mid_block.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.processor.to_q_lora.${side}.weight`,
    ),
    about: 'motion LoRAs, without alpha',
  },
  peft: {
    keys: matrices(`base_model.model.${layer}`),
    about: 'a folder with adapter_config.json: patterns of rank and alpha, rsLoRA, lora_bias',
  },
  kohya: {
    keys: [...sides(flat), `${flat}.alpha`],
    about: "both nets, also under the original UNet's names; LoCon with its Tucker middle",
  },
  lycoris: {
    keys: sides(`lycoris_${layer.replaceAll('.', '_')}`),
    about: 'as LyCORIS alone saves them',
  },
};

const words: Readonly<Record<AlgorithmName, string>> = {
  lora: 'two matrices, of linear layers and convolutions',
  loha: 'a product of two products of matrices, also in Tucker form',
  lokr: 'a Kronecker product, each factor whole, low-rank or in Tucker form',
  full: 'a plain difference of weights, biases and norms',
};

/** The leaves that make a fresh module, in a kohya file. */
const module = (algorithm: AlgorithmName): string[] =>
  Object.keys(algorithms[algorithm].fresh([4, 4], 1)).map((leaf) => `${flat}.${leaf}`);

export const samples: readonly FormatSample[] = [
  ...Object.values(spellings),
  ...(Object.keys(algorithms) as AlgorithmName[])
    .filter((name) => name !== 'lora')
    .map((name) => ({ keys: module(name), about: words[name] })),
  {
    keys: [...module('lora'), `${flat}.dora_scale`],
    about: 'with a magnitude per output or per input; also of LoHa and LoKr',
  },
  {
    keys: [...matrices(`base_model.model.${layer}`), 'base_model.model.conv_out.weight'],
    about: 'with layers that were trained whole',
  },
  ...relatives.map(({ leaf, dialect }) => ({
    keys: [`${dialect === 'peft' ? `base_model.model.${layer}` : flat}.${leaf}`],
    about: 'recognised by its keys',
  })),
];
