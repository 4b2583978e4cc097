/** LoRA files in the wild: which dialect, which module, which rank and alpha. One table, read both ways. */

import type { AdapterFile, FileExtras } from '@attune/core';
import { AttuneError, nearest, type Weights } from '@attune/engine';
import { z } from 'zod';

import type { Module } from './lora.ts';

/** A LoRA file, its modules resolved to addresses of a model. */
export interface LoraFile {
  readonly dialect: Dialect;
  /** `<address>.lora_A.weight`, `<address>.lora_B.weight`. */
  readonly weights: Weights;
  readonly modules: ReadonlyMap<string, Module>;
  /** The key in the file of one of `weights`: the table read backwards. */
  readonly fileKey: (name: string) => string;
  readonly fileExtras: FileExtras;
}

export type Dialect = 'diffusers' | 'peft' | 'kohya';

interface Spelling {
  readonly dialect: Dialect;
  /** Groups: module, and which matrix. */
  readonly pattern: RegExp;
  readonly down: string;
}

const spellings: readonly Spelling[] = [
  {
    dialect: 'peft',
    pattern: /^base_model\.model\.(.+)\.(lora_A|lora_B)(?:\.default)?\.weight$/,
    down: 'lora_A',
  },
  { dialect: 'diffusers', pattern: /^(.+)\.(lora_A|lora_B)\.weight$/, down: 'lora_A' },
  { dialect: 'kohya', pattern: /^(lora_.+)\.(lora_down|lora_up)\.weight$/, down: 'lora_down' },
];

/** The dialect of a set of names, or undefined when they are no LoRA. */
export function detectDialect(names: Iterable<string>): Spelling | undefined {
  const first = [...names].find((name) => /\.lora_(A|B|down|up)(\.default)?\.weight$/.test(name));
  return first === undefined ? undefined : spellings.find((one) => one.pattern.test(first));
}

const PeftConfig = z.looseObject({
  r: z.int().positive(),
  lora_alpha: z.number(),
  alpha_pattern: z.record(z.string(), z.number()).nullish(),
  use_rslora: z.boolean().nullish(),
});

/**
 * Reads a LoRA file against a model's layer addresses. Every tensor must belong to a module that the
 * model has; rank and alpha are per module.
 */
export function readLora(file: AdapterFile, addresses: ReadonlySet<string>): LoraFile {
  const names = [...file.weights.names()];
  const spelling = detectDialect(names);
  if (!spelling)
    throw new AttuneError(
      'NOT_LORA',
      `${file.path} holds no low-rank matrices (first name: ${names[0]}).`,
    );
  const find = resolver(addresses, spelling.dialect);
  const alphaOf = alphas(file, spelling.dialect);
  const modules = new Map<string, Module>();
  const renamed = new Map<string, string>();
  const lost: string[] = [];
  for (const name of names) {
    if (name.endsWith('.alpha')) continue;
    const [, module, matrix] = spelling.pattern.exec(name) ?? [];
    const address = module === undefined ? undefined : find(module);
    if (address === undefined) {
      lost.push(name);
      continue;
    }
    const isDown = matrix === spelling.down;
    renamed.set(name, `${address}.${isDown ? 'lora_A' : 'lora_B'}.weight`);
    if (!isDown) continue;
    const [rank] = file.weights.entry(name).shape;
    modules.set(address, { rank, alpha: alphaOf(module, rank) });
  }
  if (lost.length)
    throw new AttuneError(
      'UNMATCHED_WEIGHTS',
      `${file.path}: ${lost.length} of ${names.length} tensors fit no layer of the model, first ${lost[0]}; nearest layers: ${nearest(lost[0], addresses, 3).join(', ')}.`,
      { lost },
    );
  const keys = new Map([...renamed].map(([key, name]) => [name, key]));
  return {
    dialect: spelling.dialect,
    weights: file.weights.renamed((name) => renamed.get(name)),
    modules,
    fileKey: (name) => keys.get(name) ?? name,
    fileExtras: {
      metadata: file.metadata,
      tensors: Object.fromEntries(
        names
          .filter((name) => name.endsWith('.alpha'))
          .map((name) => [name, file.weights.entry(name).load()]),
      ),
    },
  };
}

/** Finds the address a file's module name means. */
export function resolver(
  addresses: ReadonlySet<string>,
  dialect: Dialect,
): (module: string) => string | undefined {
  if (dialect === 'kohya') {
    const flat = new Map([...addresses].map((address) => [kohyaName(address), address] as const));
    return (module) => flat.get(module);
  }
  // Names inside a UNet may belong to an adapter's private layers: `unet.X` may be `video.X`.
  const bySuffix = new Map<string, string>();
  for (const address of addresses) bySuffix.set(address.slice(address.indexOf('.') + 1), address);
  return (module) => {
    const inner = module.replace(/^(unet|text_encoder)\./, '');
    return (
      [module, `unet.${inner}`, `text_encoder.text_model.${inner}`].find((name) =>
        addresses.has(name),
      ) ?? bySuffix.get(inner)
    );
  };
}

/** kohya's name of an address: not invertible, so addresses are flattened and looked up. */
export const kohyaName = (address: string): string =>
  `lora_${address.replace(/^text_encoder\./, 'te.').replaceAll('.', '_')}`;

/** The alpha of each module: a scalar beside it, a PEFT config in the header or beside the file, or the rank. */
export function alphas(
  file: AdapterFile,
  dialect: Dialect,
): (module: string, rank: number) => number {
  if (dialect === 'kohya')
    return (module, rank) => {
      const name = `${module}.alpha`;
      if (!file.weights.has(name)) return rank;
      const alpha = Number(file.weights.entry(name).load().data[0]);
      return alpha === 0 ? rank : alpha;
    };
  const header = file.metadata.lora_adapter_metadata;
  const configs = header
    ? byComponent(parseHeader(header, file.path))
    : new Map([['', file.config]]);
  return (module, rank) => {
    const component = module.slice(0, module.indexOf('.'));
    const parsed = PeftConfig.safeParse(configs.get(component) ?? configs.get(''));
    if (!parsed.success) return rank;
    const { lora_alpha: all, alpha_pattern: patterns, use_rslora: stable } = parsed.data;
    const own = Object.entries(patterns ?? {}).find(([key]) =>
      modulePattern(key, file.path).test(module),
    );
    const alpha = own ? own[1] : all;
    return stable ? alpha * Math.sqrt(rank) : alpha;
  };
}

function parseHeader(text: string, path: string): Record<string, unknown> {
  try {
    return Object(JSON.parse(text)) as Record<string, unknown>;
  } catch {
    throw new AttuneError('BAD_JSON', `${path}: its lora_adapter_metadata is no JSON.`, { path });
  }
}

/** PEFT's patterns are regular expressions over module names; ones that could take forever are refused. */
function modulePattern(key: string, path: string): RegExp {
  const repeats = key.match(/[*+{]/g)?.length ?? 0;
  const nested = /\)[*+{]/.test(key);
  try {
    if (repeats <= 2 && !nested && key.length <= 500) return new RegExp(`^(.*\\.)?(${key})$`);
  } catch {
    // no regular expression at all: refused below
  }
  throw new AttuneError(
    'BAD_CONFIG',
    `${path}: the alpha_pattern "${key.slice(0, 80)}" is no usable module pattern.`,
    { path },
  );
}

/** `{ "unet.r": 4 }` → unet: { r: 4 }. */
function byComponent(flat: Readonly<Record<string, unknown>>): Map<string, unknown> {
  const configs = new Map<string, Record<string, unknown>>();
  for (const [key, value] of Object.entries(flat)) {
    const dot = key.indexOf('.');
    const component = key.slice(0, dot);
    const config = configs.get(component) ?? {};
    config[key.slice(dot + 1)] = value;
    configs.set(component, config);
  }
  return configs;
}
