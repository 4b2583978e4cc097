/** A LoRA file in another dialect: the same tensors under other names, rank and alpha where it keeps them. */

import { layerNames, type Model, type WriteRequest, type Written } from '@attune/core';
import { AttuneError, f32, type NDArray, type Shape, toF32 } from '@attune/engine';

import { approximated } from './approximate.ts';
import { type LoraFile, readLora } from './formats.ts';
import type { Module } from './lora.ts';
import { isAnimateDiffs } from './names.ts';

/** What a file is written from. */
export type Modules = Pick<LoraFile, 'modules' | 'weights'>;

interface Target {
  /** A module's name, from its address and other tools' names of the layer; undefined for one that cannot be there. */
  readonly module: (address: string, others: readonly string[]) => string | undefined;
  /** Its names of the leaves; a leaf that it has no name for cannot be written. */
  readonly leaves: Readonly<Record<string, string>>;
  readonly scale: (file: Modules, name: (address: string) => string) => Partial<Written>;
  /** There is no place for alpha: the scale becomes part of the matrices. */
  readonly unscaled?: boolean;
}

const peftLeaves = {
  'lora_A.weight': 'lora_A.weight',
  'lora_B.weight': 'lora_B.weight',
  'lora_B.bias': 'lora_B.bias',
  lora_magnitude_vector: 'lora_magnitude_vector',
};
const same = (leaf: string): readonly [string, string] => [leaf, leaf];
const kohyaLeaves = {
  'lora_A.weight': 'lora_down.weight',
  'lora_B.weight': 'lora_up.weight',
  'lora_mid.weight': 'lora_mid.weight',
  ...Object.fromEntries(
    ['hada_w1_a', 'hada_w1_b', 'hada_w2_a', 'hada_w2_b', 'hada_t1', 'hada_t2'].map(same),
  ),
  ...Object.fromEntries(
    ['1', '2'].flatMap((i) =>
      [`w${i}`, `w${i}_a`, `w${i}_b`, `t${i}`].map((x) => same(`lokr_${x}`)),
    ),
  ),
  diff: 'diff',
  diff_b: 'diff_b',
  dora_scale: 'dora_scale',
};

const kohyaModule = (address: string): string => {
  const flat = address.replaceAll('.', '_');
  return flat.startsWith('text_encoder_')
    ? `lora_te_${flat.slice('text_encoder_'.length)}`
    : `lora_unet_${flat.slice(address.indexOf('.') + 1)}`;
};

/** Names inside the UNet stay, whichever adapter's layers they are. */
const diffusersModule = (address: string): string =>
  address.startsWith('text_encoder.') ? address : `unet.${address.slice(address.indexOf('.') + 1)}`;

/**
 * AnimateDiff puts both motion LoRAs and the adapter of its v3 on the attentions of one UNet with motion modules:
 * those of a motion module under its own names, spatial ones under diffusers'.
 */
function animateDiffModule(address: string, others: readonly string[]): string | undefined {
  const own =
    others.find(isAnimateDiffs) ?? /^unet\.(.+\.attn\d\.to_\w+(?:\.0)?)$/.exec(address)?.[1];
  return own?.replace(/\.(to_\w+?)(?:\.0)?$/, '.processor.$1_lora');
}

const targets: Readonly<Record<string, Target>> = {
  kohya: {
    module: kohyaModule,
    leaves: kohyaLeaves,
    scale: ({ modules }, name) => ({
      tensors: Object.fromEntries(
        [...modules]
          .filter(([, { algorithm }]) => algorithm !== 'full')
          .map(([address, { alpha }]) => [`${name(address)}.alpha`, f32([alpha], [])]),
      ),
      metadata: { ss_network_module: 'networks.lora' },
    }),
  },
  diffusers: {
    module: diffusersModule,
    leaves: peftLeaves,
    scale: ({ modules }, name) => ({
      metadata: {
        format: 'pt',
        lora_adapter_metadata: JSON.stringify(
          Object.fromEntries(
            [...byComponent(modules)].flatMap(([component, own]) =>
              Object.entries(peftConfig(own, (a) => name(a).slice(component.length + 1))).map(
                ([key, value]) => [`${component}.${key}`, value],
              ),
            ),
          ),
        ),
      },
    }),
  },
  peft: {
    module: (address) => `base_model.model.${address.slice(address.indexOf('.') + 1)}`,
    leaves: peftLeaves,
    scale: ({ modules }, name) => {
      const components = [...byComponent(modules).keys()];
      if (components.length > 1)
        throw new AttuneError(
          'NOT_EXPRESSIBLE',
          `A PEFT folder belongs to one model, and this file changes ${components.join(' and ')}: write it as diffusers or kohya.`,
        );
      const config = peftConfig(modules, (a) => name(a).slice('base_model.model.'.length));
      return {
        metadata: { format: 'pt' },
        folder: { file: 'adapter_model.safetensors', configs: { 'adapter_config.json': config } },
      };
    },
  },
  animatediff: {
    module: animateDiffModule,
    leaves: { 'lora_A.weight': 'down.weight', 'lora_B.weight': 'up.weight' },
    scale: () => ({ metadata: { format: 'pt' } }),
    unscaled: true,
  },
};

export const dialects = Object.keys(targets);

/** Modules by the component of a pipeline that they change. */
function byComponent(modules: ReadonlyMap<string, Module>): Map<string, Map<string, Module>> {
  const found = new Map<string, Map<string, Module>>();
  for (const [address, module] of modules) {
    const component = address.startsWith('text_encoder.') ? 'text_encoder' : 'unet';
    const there = found.get(component) ?? new Map<string, Module>();
    found.set(component, there.set(address, module));
  }
  return found;
}

/** PEFT's LoraConfig: the commonest rank and alpha for all, the others as patterns. */
function peftConfig(
  modules: ReadonlyMap<string, Module>,
  name: (address: string) => string,
): Record<string, unknown> {
  const all = [...modules];
  const [rank, alpha] = (['rank', 'alpha'] as const).map((key) =>
    commonest(all.map(([, one]) => one[key])),
  );
  const others = (key: 'rank' | 'alpha', common: number) =>
    Object.fromEntries(
      all.flatMap(([address, one]) => (one[key] === common ? [] : [[name(address), one[key]]])),
    );
  return {
    peft_type: 'LORA',
    r: rank,
    lora_alpha: alpha,
    rank_pattern: others('rank', rank),
    alpha_pattern: others('alpha', alpha),
    use_dora: all.some(
      ([, { leaves }]) => leaves.has('lora_magnitude_vector') || leaves.has('dora_scale'),
    ),
    use_rslora: false,
    // Versions before it know no such setting.
    ...(all.some(([, { leaves }]) => leaves.has('lora_B.bias')) ? { lora_bias: true } : {}),
    bias: 'none',
    target_modules: all.map(([address]) => name(address)),
  };
}

function commonest(values: readonly number[]): number {
  const counts = new Map<number, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].toSorted(([, a], [, b]) => b - a)[0][0];
}

/**
 * The file in another dialect, its names resolved against a model; with a rank, every module as plain
 * LoRA of that rank.
 *
 * @throws NOT_EXPRESSIBLE where the dialect has no names for a module's tensors
 */
export async function writeLora({
  file,
  model,
  dialect,
  rank,
  runtime,
}: WriteRequest): Promise<Written> {
  const whole = readLora(file, model);
  const near = rank === undefined ? undefined : await approximated(whole, model, { rank, runtime });
  return {
    ...spelledAs(dialect, near?.file ?? whole, model),
    ...(near ? { error: near.error } : {}),
  };
}

/**
 * Modules as the file of a dialect, their layers named as a model's.
 *
 * @throws NOT_EXPRESSIBLE where the dialect has no name for a module's layer or its tensors
 */
export function spelledAs(dialect: string, read: Modules, model: Model): Written {
  const { module, leaves, scale, unscaled } = targets[dialect];
  const others = layerNames(model);
  const name = (address: string): string => {
    const own = module(address, others.get(address) ?? []);
    if (own !== undefined) return own;
    throw new AttuneError(
      'NOT_EXPRESSIBLE',
      `${dialect} has no name for the layer ${address}: write it as kohya or diffusers.`,
      { address },
    );
  };
  const tensors: Record<string, NDArray> = {};
  for (const [address, own] of read.modules)
    for (const [leaf, shape] of own.leaves) {
      const { name: known, reshape } = translated(leaf, shape, dialect, leaves);
      if (known === undefined)
        throw new AttuneError(
          'NOT_EXPRESSIBLE',
          `${dialect} has no form for the ${own.algorithm} module at ${address} (${leaf}): write it as ${leaf === 'lora_B.bias' ? 'peft or diffusers' : 'kohya, or as plain LoRA with a rank'}.`,
          { address, leaf },
        );
      const value = read.weights.entry(`${address}.${leaf}`).load();
      const whole =
        unscaled && leaf === 'lora_B.weight' ? times(value, own.alpha / own.rank) : value;
      tensors[`${name(address)}.${known}`] = { ...whole, shape: reshape };
    }
  const more = scale(read, name);
  return { ...more, tensors: { ...tensors, ...more.tensors } };
}

/** A tensor times a number; times 1 it is as it was stored. */
export function times(array: NDArray, by: number): NDArray {
  if (by === 1) return array;
  const { data, shape } = toF32(array);
  return f32(
    data.map((value) => by * value),
    shape,
  );
}

/** A leaf's name in a dialect, and its shape: magnitudes of output rows go by two names. */
function translated(
  leaf: string,
  shape: Shape,
  dialect: string,
  leaves: Readonly<Record<string, string>>,
): { readonly name: string | undefined; readonly reshape: Shape } {
  const [out, ...rest] = shape;
  if (leaf === 'dora_scale' && dialect !== 'kohya' && rest.every((n) => n === 1))
    return {
      name: leaves.lora_magnitude_vector,
      reshape: rest.length > 1 ? [1, out, ...rest.slice(1)] : [out],
    };
  if (leaf === 'lora_magnitude_vector' && dialect === 'kohya')
    return {
      name: 'dora_scale',
      reshape: rest.length ? [rest[0], ...rest.map(() => 1)] : [out, 1],
    };
  return { name: leaves[leaf], reshape: shape };
}
