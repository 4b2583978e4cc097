/** LoRA (Hu et al. 2021, arXiv 2106.09685): W + s · (alpha / r) · B A at linear and conv layers. */

import {
  type Adapter,
  type FileExtras,
  type Selector,
  type Site,
  type Strength,
  uniform,
  zeros,
} from '@attune/core';
import { AttuneError, conv2d, linear, mul, type Tensor, type Weights } from '@attune/engine';

/** Rank and scale of one module. */
export interface Module {
  readonly rank: number;
  readonly alpha: number;
}

export interface LoraOptions {
  readonly name?: string;
  /** One rank for all targets, or one per address (as loaded files have). */
  readonly rank?: number;
  /** Default: the rank, so that the scale is 1. */
  readonly alpha?: number;
  /** Layers to act on. Default: the attention projections of the UNet. */
  readonly targets?: Selector;
  /** Per-address rank and alpha; where given, `targets` are exactly these addresses. */
  readonly modules?: ReadonlyMap<string, Module>;
  readonly weights?: Weights;
  /** The key of a parameter in the file that `weights` came from. */
  readonly fileKey?: (name: string) => string;
  /** What a loaded file held beside its matrices; default: a PEFT header with rank and alpha. */
  readonly fileExtras?: FileExtras;
  readonly strength?: Strength;
  readonly train?: true | readonly string[];
}

const attentionProjections = ['to_q', 'to_k', 'to_v', 'to_out.0'].map(
  (layer) => `unet.**.attn*.${layer}`,
);

/** A low-rank adapter. Fresh: A random, B zero, so that it starts as the identity. */
export function lora({
  name = 'lora',
  rank = 8,
  alpha = rank,
  targets = attentionProjections,
  modules,
  weights,
  fileKey,
  fileExtras,
  strength,
  train,
}: LoraOptions = {}): Adapter {
  return {
    name,
    live: true,
    commutes: true,
    ...(weights ? { weights } : {}),
    ...(fileKey ? { fileKey } : {}),
    fileExtras: fileExtras ?? { metadata: peftHeader(rank, alpha), tensors: {} },
    ...(strength === undefined ? {} : { strength }),
    ...(train ? { train } : {}),
    attach: () => [
      {
        at: modules ? [...modules.keys()] : targets,
        delta: (value, site) => lowRank(value, site, modules?.get(site.address) ?? { rank, alpha }),
      },
    ],
  };
}

/** Rank and alpha where diffusers looks for them: PEFT's config in the header, by component. */
function peftHeader(rank: number, alpha: number): Record<string, string> {
  const config = ['unet', 'text_encoder'].flatMap((component) => [
    [`${component}.peft_type`, 'LORA'],
    [`${component}.r`, rank],
    [`${component}.lora_alpha`, alpha],
  ]);
  return { lora_adapter_metadata: JSON.stringify(Object.fromEntries(config)) };
}

function lowRank(value: Tensor, { address, layer, scope }: Site, module: Module): Tensor {
  const { rank, alpha } = module;
  const { type, weight, apply } = layer!;
  if (type !== 'linear' && type !== 'conv')
    throw new AttuneError(
      'BAD_TARGET',
      `${scope.path}: ${address} is a layer of type ${type}; low-rank matrices act on linear and conv layers only: narrow the targets.`,
      { address, type },
    );
  const [out, ...into] = weight.shape;
  const fanIn = into.reduce((a, b) => a * b, 1);
  const down = scope.param('lora_A.weight', [rank, ...into], uniform(fanIn));
  const ups = [out, rank, ...into.slice(1).map(() => 1)];
  const up = scope.param('lora_B.weight', ups, zeros);
  const small = mul(apply(down), alpha / rank);
  return value.rank === 4 && into.length > 1 ? conv2d(small, up) : linear(small, up);
}
