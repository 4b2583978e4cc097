/** How strongly a module acts: alpha / rank, from a scalar beside it, a PEFT config, or 1. */

import type { AdapterFile } from '@attune/core';
import { AttuneError, keysInOrder, parseJson, toF32 } from '@attune/engine';
import { z } from 'zod';

const PeftConfig = z.looseObject({
  r: z.int().positive(),
  lora_alpha: z.number().optional(),
  /** LoHa's and LoKr's. */
  alpha: z.number().optional(),
  rank_pattern: z.record(z.string(), z.int().positive()).nullish(),
  alpha_pattern: z.record(z.string(), z.number()).nullish(),
  use_rslora: z.boolean().nullish(),
});

/** Alpha of a module of this rank; `rank` is undefined where its tensors have none. */
export interface Scaled {
  readonly alpha: number;
  readonly rank: number;
}

/**
 * The alpha and the rank of each module, for a scale of alpha / rank. Where the tensors have no rank (a
 * Kronecker product of two full matrices), PEFT still scales by its config, and other files not at all.
 */
export function scales(
  file: AdapterFile,
): (module: string, alphaKey: string | undefined, rank: number | undefined) => Scaled {
  const header = file.metadata.lora_adapter_metadata;
  const configs = header
    ? byComponent(parseHeader(header, file.path))
    : new Map([['', file.config]]);
  let work = 0;
  return (module, alphaKey, rank) => {
    if (alphaKey !== undefined)
      return { alpha: storedAlpha(file, alphaKey, rank), rank: rank ?? 1 };
    const component = module.slice(0, module.indexOf('.'));
    const config = configs.get(component) ?? configs.get('');
    const parsed = PeftConfig.safeParse(config);
    if (!parsed.success) return { alpha: rank ?? 1, rank: rank ?? 1 };
    const { r, lora_alpha, alpha: plain, use_rslora } = parsed.data;
    const find = (name: 'rank_pattern' | 'alpha_pattern') => {
      const patterns = parsed.data[name] ?? {};
      // The first that fits counts, in the order of the text: what was checked is another object.
      const first = keysInOrder(Object((config as typeof parsed.data)[name])).find((key) => {
        const pattern = modulePattern(key, file.path);
        work += module.length ** (1 + repeatsIn(key));
        if (work > MOST_WORK)
          throw new AttuneError(
            'BAD_CONFIG',
            `${file.path}: its rank and alpha patterns would take too long to compare with its modules.`,
            { path: file.path },
          );
        return pattern.test(module);
      });
      return first === undefined ? undefined : patterns[first];
    };
    const known = rank ?? find('rank_pattern') ?? r;
    const alpha = find('alpha_pattern') ?? lora_alpha ?? plain ?? known;
    return { alpha: use_rslora ? alpha * Math.sqrt(known) : alpha, rank: known };
  };
}

/** An alpha of 0 means none, as its writers have it; without a rank it says nothing. */
function storedAlpha(
  { weights, path }: AdapterFile,
  key: string,
  rank: number | undefined,
): number {
  if (rank === undefined) return 1;
  const alpha = toF32(weights.entry(key).load()).data[0];
  if (!Number.isFinite(alpha))
    throw new AttuneError('BAD_ALPHA', `${path}: ${key} is ${alpha ?? 'empty'}, not a number.`, {
      path,
      key,
    });
  return alpha === 0 ? rank : alpha;
}

function parseHeader(text: string, path: string): Record<string, unknown> {
  const fail = (what: string) =>
    new AttuneError('BAD_JSON', `${path}: its lora_adapter_metadata ${what}.`, { path });
  return Object(parseJson(text, fail, { lenient: true, ordered: true })) as Record<string, unknown>;
}

/** Letters that may be compared: each part of a pattern that repeats may begin and end anywhere. */
const MOST_WORK = 5e9;

const repeatsIn = (key: string): number => key.match(/[*+{]/g)?.length ?? 0;

/** PEFT's patterns are regular expressions over module names; ones that could take forever are refused. */
function modulePattern(key: string, path: string): RegExp {
  const repeats = repeatsIn(key);
  const nested = /\)[*+{]/.test(key);
  try {
    if (repeats <= 2 && !nested && key.length <= 500) return new RegExp(`^(.*\\.)?(${key})$`);
  } catch {
    // no regular expression at all: refused below
  }
  throw new AttuneError(
    'BAD_CONFIG',
    `${path}: the pattern "${key.slice(0, 80)}" is no usable module pattern.`,
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
