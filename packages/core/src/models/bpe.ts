/** CLIP's byte-pair encoding: normalise, split into words, map bytes to letters, merge by rank. */

import { badArgument } from '@attune/engine';

/** Ends the last symbol of every word. */
export const WORD_END = '</w>';

/** What a tokenizer is made of: ids by token, and pairs of tokens in order of priority. */
export interface Vocabulary {
  readonly ids: ReadonlyMap<string, number>;
  readonly merges: readonly (readonly [string, string])[];
}

/**
 * A visible letter for each of the 256 bytes (GPT-2's table): printable Latin-1 stands for itself,
 * the others are U+0100 onwards in byte order.
 */
export const byteLetters: readonly string[] = (() => {
  let spare = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte !== 173);
    return String.fromCharCode(printable ? byte : spare++);
  });
})();

const letterBytes: ReadonlyMap<string, number> = new Map(
  byteLetters.map((letter, byte) => [letter, byte]),
);

/**
 * NFC, every run of white space to one space, lower case. Lower case is taken per code point, as the
 * reference does: "Σ" never becomes a final "ς".
 */
export function normalize(text: string): string {
  const spaced = text.normalize('NFC').replace(/\p{White_Space}+/gu, ' ');
  return Array.from(spaced, (point) => point.toLowerCase()).join('');
}

const marker = /^<\|(startoftext|endoftext)\|>$/u;
const piece =
  /<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\p{White_Space}\p{L}\p{N}]+/gu;

/**
 * Splits normalised text into words: contractions, runs of letters, single digits, runs of anything
 * else. A marker that was not taken as an added token falls apart into its three runs.
 */
export function splitWords(text: string): string[] {
  return (text.match(piece) ?? []).flatMap((word) => {
    const name = marker.exec(word)?.[1];
    return name ? ['<|', name, '|>'] : [word];
  });
}

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** The first symbols of a word: one letter per UTF-8 byte, the last one with the end mark. */
function letters(word: string): string[] {
  const symbols = Array.from(encoder.encode(word), (byte) => byteLetters[byte]);
  symbols[symbols.length - 1] += WORD_END;
  return symbols;
}

/** Text of a row of tokens; the end marks become spaces. Ill-formed UTF-8 becomes U+FFFD. */
export function spell(tokens: readonly string[]): string {
  const bytes = tokens.flatMap((token) => {
    const known = Array.from(token, (letter) => letterBytes.get(letter));
    return known.every((byte) => byte !== undefined) ? known : [...encoder.encode(token)];
  });
  return decoder.decode(Uint8Array.from(bytes)).replaceAll(WORD_END, ' ').trim();
}

/** A pair as a key: tokens hold no space, since a space is a byte with a letter of its own. */
const pairKey = (left: string, right: string) => `${left} ${right}`;

/** Merges a word's letters: always the pair of lowest rank, the leftmost first. */
export class Merger {
  readonly #ranks: Map<string, number>;

  constructor(merges: Vocabulary['merges']) {
    this.#ranks = new Map(merges.map(([left, right], rank) => [pairKey(left, right), rank]));
  }

  /** Adds a merge of lowest priority. */
  append(left: string, right: string): void {
    this.#ranks.set(pairKey(left, right), this.#ranks.size);
  }

  /** The symbols a word ends up as. */
  symbols(word: string): string[] {
    const symbols = letters(word);
    for (;;) {
      let best = Number.POSITIVE_INFINITY;
      let at = -1;
      for (let i = 0; i + 1 < symbols.length; i++) {
        const rank = this.#ranks.get(pairKey(symbols[i], symbols[i + 1]));
        if (rank !== undefined && rank < best) [best, at] = [rank, i];
      }
      if (at < 0) return symbols;
      symbols.splice(at, 2, symbols[at] + symbols[at + 1]);
    }
  }
}

/**
 * A vocabulary in CLIP's layout (256 letters, 256 letters with the end mark, one token per merge, the
 * two markers) in which each given word is ONE token. Other words fall into smaller pieces; every
 * text can be encoded. Words are normalised; one that CLIP's rules split ("16", "t-shirt") is refused.
 */
export function trainWordTokenizer(words: readonly string[]): Vocabulary {
  const wanted = [...new Set(words.map(normalize))].toSorted();
  for (const word of wanted) {
    const parts = splitWords(word);
    if (parts.length !== 1 || parts[0] !== word)
      throw badArgument(
        'trainWordTokenizer',
        `"${word}" is not one word under CLIP's rules, it splits into ${JSON.stringify(parts)}`,
        'give those instead',
      );
  }
  const merges: [string, string][] = [];
  const merger = new Merger([]);
  let open = wanted.map((word) => ({ word, symbols: merger.symbols(word) }));
  while ((open = open.filter(({ symbols }) => symbols.length > 1)).length > 0) {
    const [left, right] = commonestPair(open.map(({ symbols }) => symbols));
    merges.push([left, right]);
    merger.append(left, right);
    // Encoded afresh, so that a token made in two ways obeys the earlier ranks, as in use.
    for (const entry of open) {
      if (holdsPair(entry.symbols, left, right)) entry.symbols = merger.symbols(entry.word);
    }
  }
  const base = [...byteLetters].toSorted();
  const tokens = new Set([
    ...base,
    ...base.map((letter) => letter + WORD_END),
    ...merges.map(([left, right]) => left + right),
    '<|startoftext|>',
    '<|endoftext|>',
  ]);
  return { ids: new Map([...tokens].map((token, id) => [token, id])), merges };
}

function holdsPair(symbols: readonly string[], left: string, right: string): boolean {
  return symbols.some((symbol, i) => symbol === left && symbols[i + 1] === right);
}

/** The most frequent pair of neighbours; of equals, the first in code-unit order. */
function commonestPair(rows: readonly (readonly string[])[]): [string, string] {
  const counts = new Map<string, number>();
  for (const symbols of rows) {
    for (let i = 0; i + 1 < symbols.length; i++) {
      const key = pairKey(symbols[i], symbols[i + 1]);
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
  }
  let best = '';
  let most = 0;
  for (const [key, count] of counts) {
    if (count > most || (count === most && key < best)) [best, most] = [key, count];
  }
  const [left, right] = best.split(' ');
  return [left, right];
}
