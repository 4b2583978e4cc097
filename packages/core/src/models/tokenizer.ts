/** CLIP's tokenizer: text to the ids of CLIPTokenizer in transformers, added tokens included. */

import { AttuneError, badArgument } from '@attune/engine';

import { Merger, normalize, spell, splitWords, type Vocabulary } from './bpe.ts';
import {
  type AddedToken,
  addedToken,
  clipOptions,
  readTokenizer,
  type TokenizerOptions,
  writeTokenizer,
} from './tokenizer-files.ts';

export interface Encoded {
  readonly ids: number[];
  /** Number of ids before truncation and padding, both markers counted. */
  readonly length: number;
  readonly truncated: boolean;
}

/** An added token and its id. */
type Placed = AddedToken & { readonly id: number };

/** Words kept with their ids; past this many the table starts afresh. */
const CACHE_SIZE = 20_000;

/** Byte-pair encoding as CLIP does it. Immutable; a tokenizer with more words is another one. */
export class Tokenizer {
  readonly vocabulary: Vocabulary;
  readonly options: TokenizerOptions;
  readonly maxLength: number;
  readonly bosId: number;
  readonly eosId: number;
  readonly padId: number;
  /** One more than the highest id. */
  readonly size: number;
  /** Every token that is cut out as a whole, the four named ones included. */
  readonly added: readonly Placed[];
  readonly #added: ReadonlyMap<string, Placed>;
  readonly #tokens = new Map<number, string>();
  readonly #merger: Merger;
  readonly #cache = new Map<string, readonly number[]>();
  readonly #cutRaw: Cutter;
  readonly #cutNormal: Cutter;
  readonly #unkId: number;

  constructor(vocabulary: Vocabulary, options: Partial<TokenizerOptions> = {}) {
    this.vocabulary = vocabulary;
    this.options = { ...clipOptions, ...options };
    this.maxLength = this.options.maxLength;
    this.#merger = new Merger(vocabulary.merges);
    let top = -1;
    for (const [token, id] of vocabulary.ids) {
      this.#tokens.set(id, token);
      top = Math.max(top, id);
    }
    const { bos, eos, unk, pad, added } = this.options;
    const named = [bos, eos, unk, pad];
    const placed = new Map<string, Placed>();
    for (const token of [...added, ...named.map((name) => addedToken(name, true))]) {
      const { content } = token;
      if (placed.has(content)) continue;
      const id = vocabulary.ids.get(content) ?? ++top;
      placed.set(content, { ...token, special: token.special || named.includes(content), id });
      this.#tokens.set(id, content);
    }
    this.#added = placed;
    this.added = [...placed.values()].toSorted((a, b) => a.id - b.id);
    this.size = top + 1;
    [this.bosId, this.eosId, this.padId, this.#unkId] = [bos, eos, pad, unk].map(
      (name) => placed.get(name)!.id,
    );
    this.#cutRaw = cutter(this.added.filter(({ normalized }) => !normalized));
    this.#cutNormal = cutter(this.added.filter(({ normalized }) => normalized));
  }

  /**
   * Reads a folder: `tokenizer.json`, or `vocab.json` and `merges.txt`; beside either,
   * `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` where they exist.
   */
  static async load(folder: string): Promise<Tokenizer> {
    const { vocabulary, options, addedIds } = await readTokenizer(folder);
    const tokenizer = new Tokenizer(vocabulary, options);
    for (const [content, id] of addedIds) {
      const own = tokenizer.idOf(content);
      if (own !== id)
        throw new AttuneError(
          'BAD_FILE',
          `${folder}: the added token "${content}" has id ${id} in the file, but ids continue the vocabulary without gaps, which gives ${own}.`,
          { folder, content, id, own },
        );
    }
    return tokenizer;
  }

  /** Writes `vocab.json`, `merges.txt`, `tokenizer_config.json` and `special_tokens_map.json`. */
  async save(folder: string): Promise<void> {
    await writeTokenizer(folder, {
      vocabulary: this.vocabulary,
      options: { ...this.options, added: this.added },
      addedIds: new Map(this.added.map(({ content, id }) => [content, id])),
    });
  }

  /** The id of a token as it stands in the vocabulary ("cat</w>", not "cat"). */
  idOf(token: string): number | undefined {
    return this.#added.get(token)?.id ?? this.vocabulary.ids.get(token);
  }

  /** The token of an id, or undefined for an id past the end. */
  tokenOf(id: number): string | undefined {
    return this.#tokens.get(id);
  }

  /** The same tokenizer with more tokens, on new ids past the vocabulary (textual inversion). */
  withTokens(tokens: readonly string[]): Tokenizer {
    const taken = new Set([...this.#added.keys()].map(normalize));
    for (const token of tokens) {
      const form = normalize(token);
      if (form.trim() === '' || taken.has(form) || this.vocabulary.ids.has(token))
        throw badArgument(
          'withTokens',
          form.trim() === '' ? 'a token is empty' : `the vocabulary already has "${token}"`,
          'choose another name, such as "<my-token>"',
        );
      taken.add(form);
    }
    const more = tokens.map((token) => addedToken(token, false));
    return new Tokenizer(this.vocabulary, { ...this.options, added: [...this.added, ...more] });
  }

  /**
   * The same tokenizer with a word that stands for several new ids: `word`, `word_1`, … (textual
   * inversion with several vectors).
   */
  withWord(word: string, length: number): Tokenizer {
    const parts = Array.from({ length }, (_, i) => (i === 0 ? word : `${word}_${i}`));
    const wider = this.withTokens(parts);
    const added = wider.added.map((token) =>
      token.content === word ? { ...token, span: length } : token,
    );
    return new Tokenizer(this.vocabulary, { ...this.options, added });
  }

  /**
   * Ids of a text between the two markers, cut to `maxLength` (the end marker stays) and, unless
   * `pad` is false, filled up to it.
   */
  encode(
    text: string,
    { maxLength = this.maxLength, pad = true }: { maxLength?: number; pad?: boolean } = {},
  ): Encoded {
    if (!Number.isInteger(maxLength) || maxLength < 2)
      throw badArgument('encode', `maxLength is ${maxLength}`, 'both markers need a place');
    const inner: number[] = [];
    for (const part of this.#cutRaw(text)) {
      if (typeof part === 'number') inner.push(part);
      else
        for (const run of this.#cutNormal(normalize(part))) {
          if (typeof run === 'number') inner.push(run);
          else for (const word of splitWords(run)) inner.push(...this.#wordIds(word));
        }
    }
    const length = inner.length + 2;
    const ids = [this.bosId, ...inner.slice(0, maxLength - 2), this.eosId];
    if (pad) while (ids.length < maxLength) ids.push(this.padId);
    return { ids, length, truncated: length > maxLength };
  }

  /**
   * Text of ids; an added token stands under its own name (transformers gives it in lower case). Ids
   * without a token are left out.
   */
  decode(
    ids: Iterable<number>,
    { skipSpecial = false }: { readonly skipSpecial?: boolean } = {},
  ): string {
    const tokens = Array.from(ids, (id) => this.#tokens.get(id) ?? '');
    return spell(tokens.filter((token) => !(skipSpecial && this.#added.get(token)?.special)));
  }

  #wordIds(word: string): readonly number[] {
    const known = this.#cache.get(word);
    if (known) return known;
    const ids = this.#merger
      .symbols(word)
      .map((symbol) => this.vocabulary.ids.get(symbol) ?? this.#unkId);
    if (this.#cache.size >= CACHE_SIZE) this.#cache.clear();
    this.#cache.set(word, ids);
    return ids;
  }
}

/** Cuts text into the ids of added tokens and the runs between them. */
type Cutter = (text: string) => (string | number)[];

const endsInWord = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]$/u;
const startsWithWord = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u;
const spacesAtEnd = /\p{White_Space}+$/u;
const spacesAtStart = /^\p{White_Space}+/u;

/** The leftmost match counts, of several there the longest. */
function cutter(tokens: readonly Placed[]): Cutter {
  if (tokens.length === 0) return (text) => (text === '' ? [] : [text]);
  const byForm = new Map<string, Placed>();
  for (const token of tokens) {
    const form = token.normalized ? normalize(token.content) : token.content;
    if (!byForm.has(form)) byForm.set(form, token);
  }
  const forms = [...byForm.keys()].toSorted((a, b) => b.length - a.length);
  const escaped = forms.map((form) => form.replaceAll(/[\\^$.*+?()[\]{}|/]/g, '\\$&'));
  const anyForm = new RegExp(escaped.join('|'), 'gu');
  return (text) => {
    const parts: (string | number)[] = [];
    let done = 0;
    for (const match of text.matchAll(anyForm)) {
      const token = byForm.get(match[0])!;
      const before = text.slice(done, match.index);
      const after = text.slice(match.index + match[0].length);
      if (token.single_word && (endsInWord.test(before) || startsWithWord.test(after))) continue;
      const kept = token.lstrip ? before.replace(spacesAtEnd, '') : before;
      if (kept !== '') parts.push(kept);
      for (let i = 0; i < (token.span ?? 1); i++) parts.push(token.id + i);
      done = text.length - (token.rstrip ? after.replace(spacesAtStart, '') : after).length;
    }
    if (done < text.length) parts.push(text.slice(done));
    return parts;
  };
}
