/** An adapter of changed weights: W + s · (W′ − W) at layers, W′ from a few small matrices each. */

import {
  type Adapter,
  type FileExtras,
  type Init,
  type Selector,
  type Site,
  type Strength,
  zeros,
} from '@attune/core';
import {
  AttuneError,
  conv2d,
  linear,
  mul,
  reshape,
  type Shape,
  type Tensor,
  values,
  type Weights,
} from '@attune/engine';

import {
  type AlgorithmName,
  algorithms,
  biases,
  deltaOf,
  type Has,
  type Parts,
  tuckerDown,
} from './algorithms.ts';
import { magnitudeOf, magnitudes, reweighted } from './dora.ts';

/** One module: how its tensors make a change, and its scale alpha / rank. */
export interface Module {
  readonly algorithm: AlgorithmName;
  readonly rank: number;
  readonly alpha: number;
  /** Shapes of its tensors by leaf, as in the file. */
  readonly leaves: ReadonlyMap<string, Shape>;
}

/**
 * What an adapter of LoRA's family is made of: a loaded file (`readLora` gives these options), or nothing
 * yet.
 */
export interface LoraOptions {
  readonly name?: string;
  /** What a fresh adapter is made of. Default `lora`. */
  readonly algorithm?: AlgorithmName;
  /** Rank of a fresh adapter's matrices. Default 8. */
  readonly rank?: number;
  /** Default: the rank, so that the scale is 1. */
  readonly alpha?: number;
  /** Layers to act on. Default: the attention projections of the UNet. */
  readonly targets?: Selector;
  /** A loaded file's modules by address; where given, `targets` are exactly these addresses. */
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

/** An adapter of LoRA's family. A fresh one starts as the identity. */
export function lora({
  name = 'lora',
  algorithm = 'lora',
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
    live: modules ? [...modules.values()].every(isNarrow) : algorithm === 'lora',
    commutes: true,
    ...(weights ? { weights } : {}),
    ...(fileKey ? { fileKey } : {}),
    fileExtras: fileExtras ?? { metadata: peftHeader(algorithm, rank, alpha), tensors: {} },
    ...(strength === undefined ? {} : { strength }),
    ...(train ? { train } : {}),
    attach: () => [
      {
        at: modules ? [...modules.keys()] : targets,
        delta: (value, site) => {
          const known = modules?.get(site.address);
          return known
            ? change(value, site, { ...known, leaves: loaded(known.leaves) })
            : change(value, site, { algorithm, rank, alpha, leaves: fresh(site, algorithm, rank) });
        },
      },
    ],
  };
}

/**
 * Whether a module acts without its change of the weight being formed: then its small matrices are fed, so
 * that exchanging them compiles nothing. The change that a frozen one of another kind makes is a fixed value.
 */
const isNarrow = ({
  algorithm,
  leaves,
}: {
  algorithm: AlgorithmName;
  leaves: ReadonlyMap<string, unknown>;
}): boolean =>
  algorithm === 'lora' &&
  !magnitudeOf((leaf) => leaves.has(leaf)) &&
  !biases.some((leaf) => leaves.has(leaf));

/** Rank and alpha where diffusers looks for them: PEFT's config in the header, by component. */
function peftHeader(type: AlgorithmName, rank: number, alpha: number): Record<string, string> {
  const config = ['unet', 'text_encoder'].flatMap((component) => [
    [`${component}.peft_type`, type.toUpperCase()],
    [`${component}.r`, rank],
    [`${component}.lora_alpha`, alpha],
  ]);
  return { lora_adapter_metadata: JSON.stringify(Object.fromEntries(config)) };
}

type Leaves = ReadonlyMap<string, { readonly shape: Shape; readonly init: Init }>;

const loaded = (shapes: ReadonlyMap<string, Shape>): Leaves =>
  new Map([...shapes].map(([leaf, shape]) => [leaf, { shape, init: zeros }]));

function fresh({ layer, address, scope }: Site, algorithm: AlgorithmName, rank: number): Leaves {
  const { type, weight } = layer!;
  if (algorithm !== 'full' && type !== 'linear' && type !== 'conv')
    throw new AttuneError(
      'BAD_TARGET',
      `${scope.path}: ${address} is a layer of type ${type}; low-rank matrices act on linear and conv layers only: narrow the targets.`,
      { address, type },
    );
  return new Map(Object.entries(algorithms[algorithm].fresh(weight.shape, rank)));
}

/** What the changed weight adds to a layer's output. */
function change(
  value: Tensor,
  { address, layer, scope }: Site,
  { algorithm, rank, alpha, leaves }: Omit<Module, 'leaves'> & { readonly leaves: Leaves },
): Tensor {
  const { type, weight, apply } = layer!;
  const has: Has = (leaf) => leaves.has(leaf);
  const part: Parts = (leaf) => scope.param(leaf, leaves.get(leaf)!.shape, leaves.get(leaf)!.init);
  const scale = alpha / rank;
  const shift = has('diff_b')
    ? part('diff_b')
    : has('lora_B.bias')
      ? mul(part('lora_B.bias'), scale)
      : undefined;
  if (isNarrow({ algorithm, leaves }) && (type === 'linear' || type === 'conv'))
    return narrow(value, { address, weight, apply, scale }, part, has);
  const delta = weightChange({ algorithm, scale }, part, has, weight, address);
  const still = type === 'norm' ? values(new Float32Array(weight.size), weight.shape) : undefined;
  return apply(delta, shift ?? still);
}

/** W′ − W, of the weight's shape: what the module makes of a frozen weight. */
export function weightChange(
  { algorithm, scale }: { algorithm: AlgorithmName; scale: number },
  part: Parts,
  has: Has,
  weight: Tensor,
  address: string,
): Tensor {
  const delta =
    algorithm === 'full' && !has('diff')
      ? mul(weight, 0)
      : mul(deltaOf(algorithm, part, has, weight.shape, address), scale);
  const magnitude = magnitudeOf(has);
  if (!magnitude) return delta;
  const own = part(magnitude);
  return reweighted(weight, delta, own, magnitudes[magnitude](own.shape));
}

/** LoRA without forming its change of the weight: up (down x). */
function narrow(
  value: Tensor,
  layer: { address: string; weight: Tensor; apply: (weight: Tensor) => Tensor; scale: number },
  part: Parts,
  has: Has,
): Tensor {
  const { address, weight, apply, scale } = layer;
  const [out, ...into] = weight.shape;
  const [a, up] = [part('lora_A.weight'), part('lora_B.weight')];
  const down = has('lora_mid.weight') ? tuckerDown(part('lora_mid.weight'), a) : a;
  const rank = down.dim(0);
  if (up.size !== out * rank || down.size !== rank * (weight.size / out))
    throw new AttuneError(
      'BAD_MODULE',
      `The lora module at ${address} has the shapes lora_A [${a.shape}] and lora_B [${up.shape}], which make no change of a weight [${weight.shape}].`,
      { address },
    );
  const small = mul(apply(reshape(down, [rank, ...into])), scale);
  const ups = reshape(up, [out, rank, ...into.slice(1).map(() => 1)]);
  return value.rank === 4 && into.length > 1 ? conv2d(small, ups) : linear(small, ups);
}
