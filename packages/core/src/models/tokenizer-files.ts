/** The files of a CLIP tokenizer, in both forms, read and written. */

import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { badFile, parseJson, readText } from '@attune/engine';
import { z } from 'zod';

import { type Vocabulary, WORD_END } from './bpe.ts';

/** A token that is cut out of the text as a whole. The flags are those of Hugging Face's AddedToken. */
export interface AddedToken {
  readonly content: string;
  /** Left out by `decode(ids, { skipSpecial: true })`. */
  readonly special: boolean;
  /** Looked for in the normalised text, in its own normalised form, rather than in the raw text. */
  readonly normalized: boolean;
  /** Only between word borders. */
  readonly single_word: boolean;
  /** Swallows the white space to its left. */
  readonly lstrip: boolean;
  /** Swallows the white space to its right. */
  readonly rstrip: boolean;
  /** How many ids it stands for, its own and those after it. Default 1. */
  readonly span?: number;
}

/** Everything about a tokenizer but its vocabulary. */
export interface TokenizerOptions {
  readonly bos: string;
  readonly eos: string;
  /** Stands for a byte the vocabulary lacks; CLIP's own vocabulary has them all. */
  readonly unk: string;
  /** SD 1 pads with the end token, SD 2 with "!". */
  readonly pad: string;
  /** Length of an encoded row, both markers counted. */
  readonly maxLength: number;
  /** In the order in which they get ids, where the vocabulary has none for them. */
  readonly added: readonly AddedToken[];
}

export const clipOptions: TokenizerOptions = {
  bos: '<|startoftext|>',
  eos: '<|endoftext|>',
  unk: '<|endoftext|>',
  pad: '<|endoftext|>',
  maxLength: 77,
  added: [],
};

/** An added token with every flag at its default: a special one is looked for in the raw text. */
export function addedToken(content: string, special: boolean): AddedToken {
  const flags = { single_word: false, lstrip: false, rstrip: false };
  return { content, special, normalized: !special, ...flags };
}

/** What the files say. `addedIds` are the ids they state for added tokens. */
export interface TokenizerParts {
  readonly vocabulary: Vocabulary;
  readonly options: TokenizerOptions;
  readonly addedIds: ReadonlyMap<string, number>;
}

/** A longer row is the "no limit" that transformers writes as 1e30. */
const MAX_LENGTH = 1e6;

const TokenFile = z.object({
  content: z.string().min(1),
  special: z.boolean().optional(),
  normalized: z.boolean().optional(),
  single_word: z.boolean().optional(),
  lstrip: z.boolean().optional(),
  rstrip: z.boolean().optional(),
});
const NameFile = z.union([z.string().min(1), TokenFile]);
const SpecialFile = z.looseObject({
  bos_token: NameFile.nullish(),
  eos_token: NameFile.nullish(),
  unk_token: NameFile.nullish(),
  pad_token: NameFile.nullish(),
  additional_special_tokens: z.array(NameFile).nullish(),
});
const ConfigFile = SpecialFile.extend({
  model_max_length: z.number().positive().nullish(),
  added_tokens_decoder: z.record(z.string().regex(/^\d+$/), TokenFile).optional(),
});
const Id = z.int().nonnegative();
const IdsFile = z.record(z.string(), Id);
const FastFile = z.looseObject({
  added_tokens: z.array(TokenFile.extend({ id: Id })).default([]),
  model: z.looseObject({
    end_of_word_suffix: z.literal(WORD_END),
    vocab: IdsFile,
    merges: z.array(z.union([z.string(), z.tuple([z.string(), z.string()])])),
  }),
});

/** Reads a tokenizer's folder; precedence among the files is that of transformers 5. */
export async function readTokenizer(folder: string): Promise<TokenizerParts> {
  const read = <T>(name: string, schema: z.ZodType<T>) => readJson(join(folder, name), schema);
  const fast = read('tokenizer.json', FastFile);
  const config = read('tokenizer_config.json', ConfigFile) ?? {};
  const listed = config.added_tokens_decoder;
  // A config that lists the added tokens makes the two older files obsolete.
  const names = listed ? config : { ...config, ...read('special_tokens_map.json', SpecialFile) };
  const older = listed ? undefined : read('added_tokens.json', IdsFile);

  const { bos_token, eos_token, unk_token, pad_token, additional_special_tokens } = names;
  const four = [
    bos_token ?? clipOptions.bos,
    eos_token ?? clipOptions.eos,
    unk_token ?? clipOptions.unk,
    pad_token ?? clipOptions.pad,
  ];
  const named = [...four, ...(additional_special_tokens ?? [])].map((name) =>
    typeof name === 'string' ? addedToken(name, true) : { ...withFlags(name), special: true },
  );
  const [bos, eos, unk, pad] = named.map(({ content }) => content);
  const isNamed = (content: string) => named.some((token) => token.content === content);

  const byId = new Map<number, AddedToken>();
  for (const [id, token] of Object.entries(listed ?? {})) byId.set(Number(id), withFlags(token));
  for (const [content, id] of Object.entries(older ?? {}))
    byId.set(id, addedToken(content, isNamed(content)));
  if (!listed) for (const token of fast?.added_tokens ?? []) byId.set(token.id, withFlags(token));
  const stated = [...byId].toSorted(([a], [b]) => a - b);

  // Of a name given twice the later flags count, unless the token is listed with its id.
  const added = new Map(stated.map(([, token]) => [token.content, token]));
  const fixed = new Set(added.keys());
  for (const token of named) if (!fixed.has(token.content)) added.set(token.content, token);

  const length = config.model_max_length ?? clipOptions.maxLength;
  return {
    vocabulary: fast
      ? checked(join(folder, 'tokenizer.json'), fast.model.vocab, fast.model.merges)
      : readVocabulary(folder),
    options: {
      bos,
      eos,
      unk,
      pad,
      maxLength: length > MAX_LENGTH ? clipOptions.maxLength : length,
      added: [...added.values()],
    },
    addedIds: new Map(stated.map(([id, token]) => [token.content, id])),
  };
}

/** Writes the four files of the older form, which every version of transformers reads. */
export async function writeTokenizer(folder: string, parts: TokenizerParts): Promise<void> {
  const { vocabulary, options, addedIds } = parts;
  const byId = [...vocabulary.ids].toSorted(([, a], [, b]) => a - b);
  const names = {
    bos_token: options.bos,
    eos_token: options.eos,
    unk_token: options.unk,
    pad_token: options.pad,
  };
  const config = {
    tokenizer_class: 'CLIPTokenizer',
    model_max_length: options.maxLength,
    add_prefix_space: false,
    ...names,
    added_tokens_decoder: Object.fromEntries(
      options.added.map((token) => [addedIds.get(token.content), withFlags(token)]),
    ),
  };
  // By hand: an object would move the digits to the front.
  const lines = byId.map(([token, id]) => `${JSON.stringify(token)}: ${id}`);
  const merges = vocabulary.merges.map(([left, right]) => `${left} ${right}\n`);
  await mkdir(folder, { recursive: true });
  const write = (name: string, text: string) => writeFile(join(folder, name), text);
  await write('vocab.json', `{${lines.join(', ')}}\n`);
  await write('merges.txt', `#version: 0.2\n${merges.join('')}`);
  await write('tokenizer_config.json', `${JSON.stringify(config, undefined, 2)}\n`);
  await write('special_tokens_map.json', `${JSON.stringify(names, undefined, 2)}\n`);
}

function withFlags(token: z.infer<typeof TokenFile>): AddedToken {
  const { content, special = false, normalized = !special } = token;
  const { single_word = false, lstrip = false, rstrip = false } = token;
  return { content, special, normalized, single_word, lstrip, rstrip };
}

function readVocabulary(folder: string): Vocabulary {
  const file = join(folder, 'merges.txt');
  const ids = readJson(join(folder, 'vocab.json'), IdsFile);
  if (!ids || !existsSync(file))
    throw badFile(folder, 'neither tokenizer.json nor vocab.json with merges.txt is there');
  const lines = readText(file)
    .split(/\r?\n/)
    .filter((line) => line !== '' && !line.startsWith('#version'));
  return checked(file, ids, lines);
}

/** Refuses ids that occur twice and merges of or into tokens that the vocabulary lacks. */
function checked(
  file: string,
  record: Readonly<Record<string, number>>,
  pairs: readonly (string | readonly [string, string])[],
): Vocabulary {
  const ids = new Map(Object.entries(record).toSorted(([, a], [, b]) => a - b));
  if (new Set(ids.values()).size !== ids.size)
    throw badFile(file, 'two tokens of the vocabulary have one id');
  const merges = pairs.map((pair, line): readonly [string, string] => {
    const parts = typeof pair === 'string' ? pair.split(' ') : pair;
    const [left, right] = parts;
    if (parts.length !== 2 || ![left, right, left + right].every((token) => ids.has(token)))
      throw badFile(file, `merge ${line + 1} is not a pair of tokens that joins into a token`, {
        pair,
      });
    return [left, right];
  });
  return { ids, merges };
}

function readJson<T>(file: string, schema: z.ZodType<T>): T | undefined {
  if (!existsSync(file)) return undefined;
  const result = schema.safeParse(parseJson(readText(file), (what) => badFile(file, `it ${what}`)));
  if (result.success) return result.data;
  throw badFile(file, `not a CLIP tokenizer's file: ${z.prettifyError(result.error)}`);
}
