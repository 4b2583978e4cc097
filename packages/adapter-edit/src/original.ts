/** ControlNets as their own code saves them: an encoder in the original layout, a hint block, zero convs. */

import { fromLdm, inCheckpoint, inferUNet, isLdm, ldmLayers } from '@attune/core';
import { AttuneError, sizeOf, toF32, type WeightEntry, Weights } from '@attune/engine';

export const PREFIX = 'control_model.';

/** How a file says its encoder: as it is, as what is added to the base's, or as low-rank changes of the base's. */
export type Form = 'whole' | 'difference' | 'control-lora';

export interface Original {
  readonly form: Form;
  /** Under diffusers' names; of a Control-LoRA also `<layer>.up` and `<layer>.down`. */
  readonly weights: Weights;
}

/** Reads a file in the original layout; undefined for any other. */
export function readOriginal(file: Weights): Original | undefined {
  const wrapped = [...file.names()].some((name) => name.startsWith(PREFIX));
  const form: Form = file.has('lora_controlnet')
    ? 'control-lora'
    : file.has('difference')
      ? 'difference'
      : 'whole';
  const weights = (wrapped ? file.under(PREFIX) : file).renamed((name) =>
    name === 'difference' || name === 'lora_controlnet' ? undefined : name,
  );
  if (!weights.has('input_hint_block.0.weight')) return undefined;
  if (form !== 'control-lora' && !isLdm(weights)) return undefined;
  const strays = wrapped
    ? [...file.names()].filter(
        (name) => !name.startsWith(PREFIX) && name !== 'difference' && !inCheckpoint(name),
      )
    : [];
  if (strays.length)
    throw new AttuneError(
      'UNMATCHED_WEIGHTS',
      `${strays.length} tensors beside control_model are those of no ControlNet, first ${strays[0]}.`,
      { lost: strays },
    );
  const layers = form === 'control-lora' ? layersByLora(weights) : ldmLayers(weights);
  const hints = [...weights.names()].flatMap((name) =>
    Number(/^input_hint_block\.(\d+)\.weight$/.exec(name)?.[1] ?? []),
  );
  // Not by arguments: a hostile file has more of them than a call takes.
  const last = hints.reduce((a, b) => Math.max(a, b), 0);
  // A name that nothing explains is kept, so that it is reported by the name the file has.
  const renamed = weights.renamed((name) => control(name, last) ?? fromLdm(name, layers) ?? name);
  return { form, weights: renamed };
}

/** Residual blocks per level: the first downsampling, a convolution `op`, ends the first level. */
function layersByLora(weights: Weights): number {
  const names = [...weights.names()];
  let at = 1;
  while (at < 100 && !names.some((name) => name.startsWith(`input_blocks.${at}.0.op.`))) at++;
  return at - 1;
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

/**
 * The original's name of a ControlNet's own weight, from diffusers'; undefined for one of its encoder.
 *
 * @param blocks number of the hint encoder's blocks, two per width after the first
 */
export function originalControl(name: string, blocks: number): string | undefined {
  const hint = /^controlnet_cond_embedding\.(conv_in|conv_out|blocks\.(\d+))\.(.+)$/.exec(name);
  if (hint) {
    const [, part, index, leaf] = hint;
    const n = part === 'conv_in' ? 0 : part === 'conv_out' ? blocks + 1 : Number(index) + 1;
    return `input_hint_block.${2 * n}.${leaf}`;
  }
  const [, index, leaf] = /^controlnet_(?:down_blocks\.(\d+)|mid_block)\.(.+)$/.exec(name) ?? [];
  if (leaf === undefined) return undefined;
  return index === undefined ? `middle_block_out.0.${leaf}` : `zero_convs.${index}.0.${leaf}`;
}

const inEncoder = /^(conv_in|time_embedding|down_blocks|mid_block)\./;

/**
 * The encoder that a difference or a Control-LoRA makes of the base's: base + own; or base + up · down
 * where the file has both, its own tensor where it has that, and the base's where it has neither.
 *
 * @param base weights of the base's UNet, without its prefix
 */
export function completed({ form, weights }: Original, base: Weights): Weights {
  if (form === 'whole') return weights;
  if (form === 'control-lora') refuseHalves(weights, base);
  const entries = new Map<string, WeightEntry>();
  for (const name of weights.names())
    if (form !== 'control-lora' || !half.test(name)) entries.set(name, weights.entry(name));
  for (const name of base.names()) {
    if (!inEncoder.test(name)) continue;
    const below = base.entry(name);
    const own = entries.get(name);
    const stem = name.replace(/\.weight$/, '');
    if (form === 'difference') {
      if (own)
        entries.set(
          name,
          sum(below, () => toF32(own.load()).data, own.shape),
        );
    } else if (name.endsWith('.weight') && weights.has(`${stem}.up`)) {
      const [up, down] = ['up', 'down'].map((side) => weights.entry(`${stem}.${side}`));
      entries.set(name, lowRank(below, up, down));
    } else if (!own) entries.set(name, below);
  }
  return Weights.fromEntries(entries);
}

const half = /^(.+)\.(up|down)$/;

/** Throws UNMATCHED_WEIGHTS for low-rank tensors without the other half, or of no weight that they could change. */
function refuseHalves(weights: Weights, base: Weights): void {
  const lost = [...weights.names()].filter((name) => {
    const [, stem, side] = half.exec(name) ?? [];
    if (stem === undefined) return false;
    const weight = `${stem}.weight`;
    const other = `${stem}.${side === 'up' ? 'down' : 'up'}`;
    return (
      !inEncoder.test(weight) || !base.has(weight) || !weights.has(other) || weights.has(weight)
    );
  });
  if (lost.length)
    throw new AttuneError(
      'UNMATCHED_WEIGHTS',
      `${lost.length} low-rank tensors of the ControlNet lack their other half or change no weight of the base's encoder, first ${lost[0]}.`,
      { lost },
    );
}

/** A linear layer and a convolution of 1 × 1 have the same weights. */
const plain = (shape: readonly number[]): string => shape.join().replace(/(,1)+$/, '');

/** base + delta, formed when it is asked for. */
function sum(base: WeightEntry, delta: () => Float32Array, shape: readonly number[]): WeightEntry {
  const { name } = base;
  if (plain(shape) !== plain(base.shape))
    throw new AttuneError(
      'WEIGHT_SHAPE',
      `The ControlNet changes ${name} by [${shape}]; the base's is [${base.shape}]: it was made for another base.`,
      { name },
    );
  const load = () => {
    const [a, b] = [toF32(base.load()).data, delta()];
    return { dtype: 'f32', shape: base.shape, data: a.map((value, i) => value + b[i]) } as const;
  };
  return { name, dtype: 'f32', shape: base.shape, source: undefined, load };
}

/** base + up · down, formed when it is asked for. */
function lowRank(base: WeightEntry, up: WeightEntry, down: WeightEntry): WeightEntry {
  const [out, rank, ...ones] = up.shape;
  if (rank !== down.shape[0] || sizeOf(ones) !== 1)
    throw new AttuneError(
      'WEIGHT_SHAPE',
      `The ControlNet changes ${base.name} by [${up.shape}] times [${down.shape}], which cannot be multiplied: is the file whole?`,
      { name: base.name },
    );
  return sum(base, () => product(up, down), [out, ...down.shape.slice(1)]);
}

/** up [out, r, …] · down [r, in, …], kernels flattened. */
function product(up: WeightEntry, down: WeightEntry): Float32Array {
  const [out, rank] = up.shape;
  const [a, b] = [toF32(up.load()).data, toF32(down.load()).data];
  const width = b.length / rank;
  const result = new Float32Array(out * width);
  for (let i = 0; i < out; i++)
    for (let r = 0; r < rank; r++) {
      const factor = a[i * rank + r];
      for (let j = 0; j < width; j++) result[i * width + j] += factor * b[r * width + j];
    }
  return result;
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
