import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { AttuneError } from '@attune/engine';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { trainWordTokenizer } from '../src/models/bpe.ts';
import { Tokenizer } from '../src/models/tokenizer.ts';

const fixtures = new URL('../../../test/parity/fixtures/tokenizer/', import.meta.url).pathname;
const forms = ['json', 'files', 'files_pad'] as const;

interface Golden {
  readonly max_length: number;
  readonly padded: { readonly text: string } & Readonly<Record<(typeof forms)[number], number[]>>;
  readonly cases: readonly {
    readonly text: string;
    readonly tokens: number;
    readonly ids: number[];
    readonly ids_files_pad?: number[];
  }[];
}

let golden: Golden;
let scratch: string;
beforeAll(async () => {
  golden = JSON.parse(await readFile(join(fixtures, 'cases.json'), 'utf8')) as Golden;
  scratch = await mkdtemp(join(tmpdir(), 'attune-tokenizer-'));
});
afterAll(() => rm(scratch, { recursive: true }));

/** A folder with these files; what is no text is written as JSON. */
async function write(files: Readonly<Record<string, unknown>>): Promise<string> {
  const folder = await mkdtemp(join(scratch, 'bad-'));
  for (const [name, content] of Object.entries(files)) {
    const text = typeof content === 'string' ? content : JSON.stringify(content);
    await writeFile(join(folder, name), text);
  }
  return folder;
}

describe('equals transformers', () => {
  test.each(forms)('%s', async (form) => {
    const tokenizer = await Tokenizer.load(join(fixtures, form));
    expect(tokenizer.maxLength).toBe(golden.max_length);
    const rows = golden.cases.map(({ text }) => tokenizer.encode(text, { pad: false }));
    expect(rows.map(({ ids }) => ids)).toEqual(
      golden.cases.map((row) => (form === 'files_pad' && row.ids_files_pad) || row.ids),
    );
    // "!" is a token of its own for `files_pad` alone, which changes lengths past the cut too.
    const same = (i: number) => form !== 'files_pad' || !golden.cases[i].ids_files_pad;
    expect(rows.map(({ length }) => length).filter((_, i) => same(i))).toEqual(
      golden.cases.map(({ tokens }) => tokens).filter((_, i) => same(i)),
    );
    expect(rows.every(({ length, truncated }) => truncated === length > 77)).toBe(true);
    expect(tokenizer.encode(golden.padded.text).ids).toEqual(golden.padded[form]);
  });

  test('saved files read back the same', async () => {
    const tokenizer = await Tokenizer.load(join(fixtures, 'files_pad'));
    await tokenizer.save(join(scratch, 'again'));
    const again = await Tokenizer.load(join(scratch, 'again'));
    expect(again.added).toEqual(tokenizer.added);
    for (const { text } of golden.cases) expect(again.encode(text)).toEqual(tokenizer.encode(text));
  });

  test('a row of two ids holds the markers', async () => {
    const tokenizer = await Tokenizer.load(join(fixtures, 'files'));
    const { bosId, eosId } = tokenizer;
    expect(tokenizer.encode('a cat', { maxLength: 2 })).toEqual({
      ids: [bosId, eosId],
      length: 4,
      truncated: true,
    });
    expect(() => tokenizer.encode('a', { maxLength: 1 })).toThrow(/both markers/);
  });
});

describe('decode', () => {
  test('gives the normalised text, with and without markers', async () => {
    const tokenizer = await Tokenizer.load(join(fixtures, 'files'));
    const { ids } = tokenizer.encode('A Golden   LION 🐱 日本', { pad: false });
    expect(tokenizer.decode(ids, { skipSpecial: true })).toBe('a golden lion 🐱 日本');
    expect(tokenizer.decode(ids)).toBe('<|startoftext|>a golden lion 🐱 日本 <|endoftext|>');
  });
});

describe('added tokens', () => {
  test('take ids past the vocabulary, in any case, also inside words', async () => {
    const plain = await Tokenizer.load(join(fixtures, 'files'));
    const tokenizer = plain.withTokens(['<Toy>', '*s']).withTokens(['<Toy>_1']);
    const [toy, star, more] = [plain.size, plain.size + 1, plain.size + 2];
    expect(tokenizer.size).toBe(plain.size + 3);
    const inner = (text: string) => tokenizer.encode(text, { pad: false }).ids.slice(1, -1);
    const a = plain.idOf('a</w>')!;
    expect(inner('a <toy> a')).toEqual([a, toy, a]);
    expect(inner('a<TOY>_1*s')).toEqual([a, more, star]);
    expect(tokenizer.decode([toy, star])).toBe('<Toy>*s');
    expect(plain.encode('<toy>').ids).not.toContain(toy);
    await tokenizer.save(join(scratch, 'inversion'));
    const again = await Tokenizer.load(join(scratch, 'inversion'));
    expect(again.encode('<toy> *s')).toEqual(tokenizer.encode('<toy> *s'));
  });

  test.each([['<|endoftext|>'], ['cat</w>'], [' ']])('%j is refused', async (token) => {
    const tokenizer = await Tokenizer.load(join(fixtures, 'files'));
    expect(() => tokenizer.withTokens([token])).toThrow(AttuneError);
    expect(() => tokenizer.withTokens(['<x>', '<X>'])).toThrow(/already has/);
  });
});

describe('trainWordTokenizer', () => {
  const words =
    'a aa aaa ab aab abab golden gold olden old lion banana cabana straße 猫 night'.split(' ');

  test('makes every word one token, and still spells any other', () => {
    const vocabulary = trainWordTokenizer(words);
    const tokenizer = new Tokenizer(vocabulary, { maxLength: 16 });
    const rows = words.map((word) => tokenizer.encode(word, { pad: false }).ids);
    expect(rows.filter((ids) => ids.length !== 3)).toEqual([]);
    expect(rows.map((ids) => tokenizer.decode(ids, { skipSpecial: true }))).toEqual(words);
    const other = tokenizer.encode('Zebra, 5 🦓!', { pad: false, maxLength: 40 });
    expect(tokenizer.decode(other.ids, { skipSpecial: true })).toBe('zebra , 5 🦓!');
    expect(trainWordTokenizer(words.toReversed())).toEqual(vocabulary);
    expect(tokenizer.size).toBe(vocabulary.ids.size);
  });

  test('survives its files', async () => {
    const tokenizer = new Tokenizer(trainWordTokenizer(words), { maxLength: 16 });
    await tokenizer.save(join(scratch, 'words'));
    const again = await Tokenizer.load(join(scratch, 'words'));
    expect(again.encode('a golden lion at night')).toEqual(
      tokenizer.encode('a golden lion at night'),
    );
    expect([...again.vocabulary.ids]).toEqual([...tokenizer.vocabulary.ids]);
  });

  test('refuses what CLIP would split', () => {
    expect(() => trainWordTokenizer(['t-shirt'])).toThrow(/splits into \["t","-","shirt"\]/);
    expect(() => trainWordTokenizer(['16'])).toThrow(/not one word/);
    expect(() => trainWordTokenizer([''])).toThrow(/not one word/);
  });
});

describe('hostile files', () => {
  const ids = { a: 0, 'b</w>': 1, 'ab</w>': 2 };
  test.each([
    ['nothing', {}, /neither tokenizer.json/],
    ['no merges', { 'vocab.json': ids }, /neither tokenizer.json/],
    ['no JSON', { 'vocab.json': '{', 'merges.txt': '' }, /is no JSON/],
    ['a list', { 'vocab.json': [1], 'merges.txt': '' }, /vocab.json: not a CLIP/],
    ['a fraction', { 'vocab.json': { a: 0.5 }, 'merges.txt': '' }, /vocab.json: not a CLIP/],
    ['one id twice', { 'vocab.json': { a: 0, b: 0 }, 'merges.txt': '' }, /one id/],
    ['a merge of three', { 'vocab.json': ids, 'merges.txt': 'a b</w> a' }, /merge 1/],
    [
      'a stray merge',
      { 'vocab.json': ids, 'merges.txt': '#version: 0.2\na b</w>\nx y' },
      /merge 2/,
    ],
    ['another model', { 'tokenizer.json': { model: { type: 'WordPiece', vocab: {} } } }, /CLIP/],
    [
      'a gap before an added token',
      { 'vocab.json': ids, 'merges.txt': '', 'added_tokens.json': { '<x>': 9 } },
      /ids continue the vocabulary/,
    ],
  ])('%s', async (_, files, message) => {
    const error: unknown = await Tokenizer.load(await write(files)).catch((e: unknown) => e);
    expect(AttuneError.is(error)).toBe(true);
    expect(String(error)).toMatch(message);
  });

  test('a byte the vocabulary lacks becomes the unknown token', async () => {
    const tokenizer = await Tokenizer.load(
      await write({ 'vocab.json': ids, 'merges.txt': 'a b</w>' }),
    );
    expect(tokenizer.encode('ab ax', { pad: false }).ids).toEqual([3, 2, 0, 4, 4]);
  });
});
