/** How files spell a tensor: which module, which leaf of it. One table for all dialects, read one way. */

import { AttuneError } from '@attune/engine';

/** A key of a file, read. */
export interface Spelled {
  /** As the file spells it, but for the parts that belong to the leaf. */
  readonly module: string;
  /** The leaf as algorithms know it, or `alpha`. */
  readonly leaf: string;
  /** Whether only diffusers before 0.19 wrote it so. */
  readonly old: boolean;
}

interface Leaf {
  readonly pattern: RegExp;
  readonly old?: boolean;
  /** Module and leaf from the groups. */
  readonly read: (groups: readonly string[]) => readonly [module: string, leaf: string];
}

const matrices: Readonly<Record<string, string>> = { down: 'A', up: 'B', A: 'A', B: 'B' };
const factor = (side: string): string =>
  side === 'mid' ? 'lora_mid.weight' : `lora_${matrices[side]}.weight`;

/** The oldest files name a layer by its attention processor's argument, in text encoders, too. */
const processed = (block: string, layer: string): string => {
  const name = block.endsWith('self_attn')
    ? layer.replace(/^to_(.+)$/, (_, short: string) => `${short}_proj`)
    : layer.replace(/^to_out$/, 'to_out.0');
  return `${block}.${name}`;
};

const leaves: readonly Leaf[] = [
  {
    pattern: /^(.+)\.lora_(A|B)(?:\.default)?\.weight$/,
    read: ([module, side]) => [module, factor(side)],
  },
  {
    pattern: /^(.+)\.lora_(down|up|mid)\.weight$/,
    read: ([module, side]) => [module, factor(side)],
  },
  {
    pattern: /^(.+?)(?:\.processor)?\.(to_q|to_k|to_v|to_out)_lora\.(down|up)\.weight$/,
    old: true,
    read: ([block, layer, side]) => [processed(block, layer), factor(side)],
  },
  {
    pattern: /^(.+)\.(?:lora|lora_linear_layer)\.(down|up)\.weight$/,
    old: true,
    read: ([module, side]) => [module, factor(side)],
  },
  {
    pattern: /^(.+)\.(hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t[12]))$/,
    read: ([module, leaf]) => [module, leaf],
  },
  { pattern: /^(.+)\.lora_B(?:\.default)?\.bias$/, read: ([module]) => [module, 'lora_B.bias'] },
  { pattern: /^(.+)\.(diff|diff_b|dora_scale|alpha)$/, read: ([module, leaf]) => [module, leaf] },
  {
    pattern: /^(.+)\.(w|b)_norm$/,
    read: ([module, side]) => [module, side === 'w' ? 'diff' : 'diff_b'],
  },
  {
    pattern: /^(.+)\.lora_magnitude_vector(?:\.default)?(?:\.weight)?$/,
    read: ([module]) => [module, 'lora_magnitude_vector'],
  },
];

/** A key of a file as module and leaf; undefined for what is no part of an adapter of this family. */
export function spelled(key: string): Spelled | undefined {
  for (const { pattern, old = false, read } of leaves) {
    const found = pattern.exec(key);
    if (!found) continue;
    const [module, leaf] = read(found.slice(1));
    return { module, leaf, old };
  }
  return undefined;
}

export type Dialect =
  | 'peft'
  | 'kohya'
  | 'lycoris'
  | 'diffusers'
  | 'diffusers before 0.19'
  | 'animatediff';

const prefixes: readonly (readonly [string, Dialect])[] = [
  ['base_model.model.', 'peft'],
  ['lora_', 'kohya'],
  ['lycoris_', 'lycoris'],
];

/** The dialect that a key is written in. */
export function dialectOf(key: string, { module, old }: Pick<Spelled, 'module' | 'old'>): Dialect {
  const prefixed = prefixes.find(([prefix]) => key.startsWith(prefix))?.[1];
  if (prefixed || !old) return prefixed ?? 'diffusers';
  return isAnimateDiffs(module) ? 'animatediff' : 'diffusers before 0.19';
}

/** Whether a layer is an attention's inside a motion module, by AnimateDiff's name of it. */
export const isAnimateDiffs = (layer: string): boolean =>
  /\.temporal_transformer\..+\.attention_blocks\.\d+\.to_\w+(\.0)?$/.test(layer);

/**
 * Finds the layer that a file's module name means. Names with underscores cannot be taken apart, so the
 * model's own names are flattened, in all the ways files have them, and looked up.
 *
 * @param layers addresses of the model's layers, each with the names that other tools give it
 */
export function resolver(
  layers: ReadonlyMap<string, readonly string[]>,
): (module: string) => string | undefined {
  const known = new Map<string, string[]>();
  for (const [address, others] of layers) {
    const dot = address.indexOf('.');
    const net = address.slice(0, dot);
    for (const name of [address.slice(dot + 1), ...others].flatMap((own) => flattened(net, own))) {
      const there = known.get(name);
      if (!there) known.set(name, [address]);
      else if (!there.includes(address)) there.push(address);
    }
  }
  return (module) => {
    const found = known.get(flat(module.replace(/^base_model\.model\./, ''))) ?? [];
    const own = found.find((address) => address.startsWith('unet.')) ?? found[0];
    if (found.length < 2 || own.startsWith('unet.')) return own;
    throw new AttuneError(
      'AMBIGUOUS_MODULE',
      `The module ${module} may mean ${found.join(' or ')}: several adapters have a layer of that name. Compose the LoRA before the second of them.`,
      { module, found },
    );
  };
}

const flat = (name: string): string => name.replaceAll('.', '_');

/** All the flat names under which files have a layer of a net or an adapter. */
function flattened(net: string, layer: string): string[] {
  const inner = flat(layer);
  const bare = inner.replace(/^text_model_/, '');
  if (net === 'text_encoder')
    return [inner, bare].flatMap((name) =>
      ['text_encoder_', 'lora_te_', 'lora_te1_', 'lycoris_text_encoder_', ''].map(
        (prefix) => prefix + name,
      ),
    );
  return [`${net}_`, 'unet_', 'lora_unet_', `lora_${net}_`, 'lycoris_', ''].map(
    (prefix) => prefix + inner,
  );
}
