/** JSON of unknown origin: its size is judged before it is built. */

import { type AttuneError, badFile } from '../errors.ts';
import { readBytes, withFile } from './file.ts';

/** Brackets inside brackets: code that walks a value by recursion must not run out of stack. */
const DEEPEST = 64;
/** Commas and brackets: `[[],[],…]` takes thirty times its length in memory. */
const MOST = 4_000_000;
/** Before a number that JSON cannot say, while it is a string. */
const MARK = '\uE000';
/** Largest text read, in bytes. */
const LARGEST = 64 * 2 ** 20;

/**
 * The text of a file. Throws MISSING_FILE, or BAD_FILE for a folder, a pipe or a device (which would be
 * waited for), and for more than `most` bytes.
 */
export const readText = (file: string, most = LARGEST): string =>
  withFile(file, (handle, _, size) => {
    if (size > most) throw badFile(file, `it has ${size} bytes; at most ${most} are read`);
    return Buffer.from(readBytes(handle, 0, size, file)).toString('utf8');
  });

/**
 * What a JSON text says. Throws what `fail` makes of the reason: for what is no JSON, and for values that are
 * nested deeper than 64 times or more than four million. With `lenient`, bare `Infinity`, `-Infinity` and
 * `NaN`, as Python writes them, are those numbers. `keysInOrder` tells the order of keys in an `ordered` text.
 */
export function parseJson(
  text: string,
  fail: (what: string) => AttuneError,
  { lenient = false, ordered = false } = {},
): unknown {
  const why = oversized(text);
  if (why !== undefined) throw fail(why);
  try {
    const plain: unknown = JSON.parse(text);
    return (ordered ? inOrder(text) : undefined) ?? plain;
  } catch (error) {
    if (lenient) {
      try {
        const bare = /([:[,]\s*)(-?Infinity|NaN)(?=\s*[,\]}])/g;
        const quoted = text.replaceAll(bare, `$1"${MARK}$2"`);
        return JSON.parse(quoted, (_, value: unknown) =>
          typeof value === 'string' && value.startsWith(MARK)
            ? Number(value.slice(MARK.length))
            : value,
        );
      } catch {
        // the first error tells the place in the file itself
      }
    }
    throw fail(`is no JSON (${error instanceof Error ? error.message : String(error)})`);
  }
}

/** Before a key that JavaScript takes for an index, while it is parsed; texts that have it themselves are left alone. */
const SIGN = '\\u0000';
/** Such keys: they come before all others, whatever the text says. */
const counts = /(?<!\\)"(0|[1-9]\d*)"(?=\s*:)/g;
const isSigned = (key: string): boolean => key.startsWith('\u0000');

/** The keys of parsed objects that JavaScript would give in another order than their text. */
const orders = new WeakMap<object, readonly string[]>();

/** A JSON text with the order of its keys kept for `keysInOrder`; undefined where JavaScript keeps it itself. */
function inOrder(text: string): unknown {
  const signed = text.replaceAll(counts, `"${SIGN}$1"`);
  if (signed.length === text.length || text.includes(SIGN)) return undefined;
  return JSON.parse(signed, (_, value: unknown) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return value;
    const entries = Object.entries(value);
    if (!entries.some(([key]) => isSigned(key))) return value;
    const plain = entries.map(([key, own]) => [isSigned(key) ? key.slice(1) : key, own] as const);
    const object = Object.fromEntries(plain);
    orders.set(
      object,
      plain.map(([key]) => key),
    );
    return object;
  });
}

/** The keys of an object that `parseJson` made of an `ordered` text, in the order of the text. */
export const keysInOrder = (object: object): readonly string[] =>
  orders.get(object) ?? Object.keys(object);

/** Why a text is not parsed, whether it is JSON or not. */
function oversized(text: string): string | undefined {
  let depth = 0;
  let count = 0;
  for (let i = 0; i < text.length; i++) {
    switch (text.charCodeAt(i)) {
      case 0x22: // a string, to its end
        for (i++; i < text.length && text.charCodeAt(i) !== 0x22; i++)
          if (text.charCodeAt(i) === 0x5c) i++;
        break;
      case 0x5b:
      case 0x7b:
        if (++depth > DEEPEST) return `nests its values deeper than ${DEEPEST} times`;
        count++;
        break;
      case 0x5d:
      case 0x7d:
        depth--;
        break;
      case 0x2c:
        count++;
        break;
    }
    if (count > MOST) return `holds more than ${MOST} values`;
  }
  return undefined;
}
