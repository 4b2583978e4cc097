import { basename, extname } from 'node:path';

import {
  type AdapterFile,
  adapterKind,
  definePlugin,
  type Detection,
  type Model,
} from '@attune/core';
import { AttuneError, reshaped, type WeightEntry, Weights } from '@attune/engine';
import { z } from 'zod';

import { PARAMETER, TABLE, textualInversion } from './inversion.ts';

export { type InversionOptions, textualInversion } from './inversion.ts';

/** Vectors that a word may have: a prompt's places but for both markers. */
const MOST = 75;

const Options = z.strictObject({
  /** The word that prompts write. Default: the file's own, or the adapter's name in angle brackets. */
  word: z.string().min(1).optional(),
  /** Vectors of a fresh one. */
  vectors: z.int().min(1).max(MOST).optional(),
});

const BRACKETED = /^<[^<>]+>$/;
/** Where files keep the vectors: the first programs' pickles, safetensors, or the token as the only key. */
const layouts: readonly (readonly [dialect: string, key: RegExp, sample: string])[] = [
  ['original', /^string_to_param\.\*$/, 'string_to_param.*'],
  ['embedding', /^emb_params$/, 'emb_params'],
  ['diffusers', BRACKETED, '<word>'],
];

/** What diffusers calls the vectors may be any word. These are what other files call a tensor of their own. */
const WORD =
  /^(?!(weight|bias|scale|alpha|mask|image|sample|noise|latents?|mean|std|difference|data|values?|x|y)$)[^\s.<>/]{1,64}$/;

interface Found {
  readonly dialect: string;
  readonly key: string;
  readonly entry: WeightEntry;
}

/** The vectors of a file; undefined for any other file. */
function find({ weights }: AdapterFile): Found | undefined {
  const names = [...weights.names()];
  if (names.length > 3) return undefined;
  for (const [dialect, sign] of layouts) {
    const key = names.find((name) => sign.test(name));
    if (key === undefined) continue;
    const others = names.filter((name) => name !== key && !name.startsWith('string_to_token.'));
    if (others.length === 0) return { dialect, key, entry: weights.entry(key) };
  }
  const [key] = names;
  return names.length === 1 && WORD.test(key) && areVectors(weights.entry(key))
    ? { dialect: 'diffusers', key, entry: weights.entry(key) }
    : undefined;
}

/** Whether a tensor may be the vectors of a word, whatever the text encoder. */
function areVectors({ dtype, shape }: WeightEntry): boolean {
  const count = shape.length === 1 ? 1 : shape[0];
  return /^b?f\d+$/.test(dtype) && shape.length < 3 && count >= 1 && count <= MOST;
}

const families: ReadonlyMap<number, string> = new Map([
  [768, 'sd1'],
  [1024, 'sd2'],
]);

function detect(file: AdapterFile): Detection | undefined {
  const found = find(file);
  if (!found) return undefined;
  const { dialect, key, entry } = found;
  const base = families.get(entry.shape[entry.shape.length - 1]);
  // A word without brackets says nothing: the width of a known text encoder has to.
  if (dialect === 'diffusers' && base === undefined && !BRACKETED.test(key)) return undefined;
  return { dialect, algorithm: 'textual-inversion', evidence: key, ...(base ? { base } : {}) };
}

/** The word a file is known by: its key, the name in its header, or the file's own name. */
function wordOf({ key, dialect }: Found, { metadata, path }: AdapterFile): string {
  if (dialect === 'diffusers') return key;
  return `<${metadata.name ?? basename(path, extname(path))}>`;
}

/**
 * Number and width of a file's vectors; one alone may lie there without its number.
 *
 * @throws WEIGHT_SHAPE for what no word can have, and for vectors that are not as wide as the model's
 */
function vectorsOf(
  { key, entry: { shape } }: Found,
  { path }: AdapterFile,
  { weights }: Model,
): [number, number] {
  const table = `${TABLE}.weight`;
  const [count, width, ...rest] = shape.length === 1 ? [1, ...shape] : shape;
  const wanted = weights.has(table) ? weights.entry(table).shape[1] : width;
  if (!(width > 0) || width !== wanted || rest.length > 0 || count < 1 || count > MOST)
    throw new AttuneError(
      'WEIGHT_SHAPE',
      `${path}: ${key} is [${shape}]; the vectors of a word are [count, ${wanted ?? 'width'}] in this model, 1 to ${MOST} of them.`,
      { key, shape },
    );
  return [count, width];
}

/** The plugin: adapters of the kind `textual-inversion`. */
export default definePlugin({
  api: 1,
  contributes: {
    adapters: {
      'textual-inversion': adapterKind({
        options: Options,
        detect,
        samples: layouts.map(([dialect, , key]) => ({
          keys: [key],
          about:
            dialect === 'diffusers'
              ? `under the key \`${key}\`, or any other word that is the only key`
              : `under the key \`${key}\``,
        })),
        create: ({ file, model, ...common }, { word, vectors }) => {
          if (!file)
            return textualInversion({
              ...common,
              word: word ?? `<${common.name}>`,
              ...(vectors === undefined ? {} : { vectors }),
            });
          const found = find(file);
          if (!found)
            throw new AttuneError('NOT_INVERSION', `${file.path} is no textual inversion.`);
          const { key, entry } = found;
          const shape = vectorsOf(found, file, model);
          return textualInversion({
            ...common,
            word: word ?? wordOf(found, file),
            vectors: shape[0],
            weights: Weights.fromEntries([[PARAMETER, reshaped(entry, shape)]]),
            fileKey: () => key,
          });
        },
      }),
    },
  },
});
