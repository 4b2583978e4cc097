/** The header of a .safetensors file, read as if its author meant harm: every length is checked before use. */

import { AttuneError, badFile } from '../errors.ts';
import { type DType, itemSize } from '../runtime/array.ts';
import { type Eight, isEight, isScaleOfEights } from './eights.ts';
import { parseJson } from './json.ts';

/** Where a tensor lies in its file. */
export interface TensorEntry {
  readonly name: string;
  readonly dtype: DType;
  /** The 8-bit type that its bytes are of; `dtype` is what they are read as. */
  readonly eight?: Eight;
  readonly shape: readonly number[];
  /** First byte, counted from the start of the file. */
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
}

export interface Header {
  readonly metadata: Readonly<Record<string, string>>;
  readonly tensors: ReadonlyMap<string, TensorEntry>;
}

/** Largest header read, in bytes: the format's own limit. */
export const maxHeader = 100_000_000;

/** Most axes of a tensor: PyTorch's own limit. */
export const maxRank = 64;

/** Element types by the format's names. */
export const dtypes: Readonly<Record<string, DType>> = {
  F64: 'f64',
  F32: 'f32',
  F16: 'f16',
  BF16: 'bf16',
  I64: 'i64',
  I32: 'i32',
  U8: 'u8',
  BOOL: 'bool',
};

/** Types of the format that this project has no use for. */
const foreign = new Set(['I8', 'I16', 'U16', 'U32', 'U64', 'F8_E8M0', 'F4', 'C64']);

/**
 * Parses the JSON of a header. `start` is where the payload begins and `size` the file's length; the
 * tensors must cover the payload exactly, in any order, without holes or overlaps.
 */
export function parseHeader(bytes: Uint8Array, start: number, size: number, file: string): Header {
  const fail = (what: string, facts = {}): AttuneError => badFile(file, what, facts);
  if (bytes[0] !== 0x7b) throw fail('its header does not begin with "{"');
  let text: string;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch {
    throw fail('its header is not UTF-8');
  }
  const json = parseObject(text, fail);
  let metadata: Record<string, string> = {};
  const tensors = new Map<string, TensorEntry>();
  for (const [name, value] of Object.entries(json)) {
    if (name === '__metadata__') metadata = parseMetadata(value, fail);
    else tensors.set(name, parseEntry(name, value, start, fail));
  }
  const scale = [...tensors.keys()].find(isScaleOfEights);
  if (scale !== undefined && [...tensors.values()].some(({ eight }) => eight))
    throw fail(
      `its 8-bit floats are to be multiplied by tensors beside them (${brief(scale)}), which is not supported: take a copy in F16, BF16 or F32`,
      { name: scale },
    );
  const ordered = [...tensors.values()].toSorted(
    (a, b) => a.offset - b.offset || a.length - b.length,
  );
  let at = start;
  for (const { name, offset, length } of ordered) {
    if (offset < at) throw fail(`the tensor ${brief(name)} overlaps another one`, { name });
    if (offset > at)
      throw fail(`${offset - at} bytes before the tensor ${brief(name)} belong to no tensor`, {
        name,
      });
    at = offset + length;
  }
  if (at > size)
    throw fail(`its tensors end at byte ${at}, but it has ${size} bytes: it is cut short`, {
      at,
      size,
    });
  if (at < size)
    throw fail(`${size - at} bytes after the last tensor belong to no tensor`, { at, size });
  return { metadata, tensors };
}

type Fail = (what: string, facts?: Record<string, unknown>) => AttuneError;

/** JSON.parse keeps the last of two equal keys without a word, so keys are counted, too. */
function parseObject(text: string, fail: Fail): Record<string, unknown> {
  const json = parseJson(text, (what) => fail(`its header ${what}`));
  if (typeof json !== 'object' || json === null || Array.isArray(json))
    throw fail('its header is no JSON object');
  const twice = repeatedKey(text);
  if (twice !== undefined)
    throw fail(`the name ${brief(twice)} occurs twice in its header`, { name: twice });
  return json as Record<string, unknown>;
}

/** The first key that valid JSON repeats in its outermost object or in an object directly inside. */
function repeatedKey(text: string): string | undefined {
  const seen: (Set<string> | undefined)[] = []; // by depth; undefined for an array
  let depth = 0;
  let expectsKey = false;
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (c === '"') {
      const end = endOfString(text, i);
      const keys = expectsKey ? seen[depth] : undefined;
      if (keys) {
        const key = JSON.parse(text.slice(i, end + 1)) as string;
        if (keys.has(key)) return key;
        keys.add(key);
        expectsKey = false;
      }
      i = end;
    } else if (c === '{' || c === '[') {
      depth++;
      if (depth <= 2) seen[depth] = c === '{' ? new Set() : undefined;
      expectsKey = depth <= 2 && c === '{';
    } else if (c === '}' || c === ']') depth--;
    else if (c === ',') expectsKey = depth <= 2 && seen[depth] !== undefined;
  }
  return undefined;
}

function endOfString(text: string, start: number): number {
  let i = start + 1;
  while (text[i] !== '"') i += text[i] === '\\' ? 2 : 1;
  return i;
}

function parseMetadata(value: unknown, fail: Fail): Record<string, string> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw fail('its __metadata__ is no object');
  for (const [key, text] of Object.entries(value))
    if (typeof text !== 'string') throw fail(`the metadata ${brief(key)} is no text`, { key });
  return value as Record<string, string>;
}

function parseEntry(name: string, value: unknown, start: number, fail: Fail): TensorEntry {
  const label = brief(name);
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw fail(`the entry of ${label} is no object`, { name });
  const { dtype, shape, data_offsets: span, ...rest } = value as Record<string, unknown>;
  const [stray] = Object.keys(rest);
  if (stray !== undefined)
    throw fail(`the entry of ${label} has an unknown key ${brief(stray)}`, { name });
  const eight = isEight(dtype) ? dtype : undefined;
  const type = eight
    ? 'f16'
    : typeof dtype === 'string' && Object.hasOwn(dtypes, dtype)
      ? dtypes[dtype]
      : undefined;
  if (!type)
    throw fail(
      typeof dtype === 'string' && foreign.has(dtype)
        ? `the tensor ${label} is of type ${dtype}, which is not supported: take a copy in F32, F16, BF16 or an 8-bit float`
        : `the tensor ${label} has no known type (${display(dtype)})`,
      { name },
    );
  if (!isCounts(shape) || shape.length > maxRank)
    throw fail(`the shape of ${label} is ${display(shape)}`, { name });
  if (!isCounts(span) || span.length !== 2 || span[0] > span[1])
    throw fail(`the data_offsets of ${label} are ${display(span)}`, { name });
  let needed = eight ? 1 : itemSize[type];
  for (const dim of shape) {
    needed *= dim;
    if (!Number.isSafeInteger(needed)) break;
  }
  if (!Number.isSafeInteger(needed) || !Number.isSafeInteger(start + span[1]))
    throw fail(`the shape ${display(shape)} of ${label} is too large`, { name });
  const length = span[1] - span[0];
  if (needed !== length)
    throw fail(
      `the tensor ${label} of type ${display(dtype)} and shape ${display(shape)} needs ${needed} bytes, its data_offsets span ${length}`,
      { name },
    );
  return {
    name,
    dtype: type,
    ...(eight ? { eight } : {}),
    shape,
    offset: start + span[0],
    length,
  };
}

const isCounts = (value: unknown): value is number[] =>
  Array.isArray(value) &&
  value.every((n) => Number.isSafeInteger(n) && (n as number) >= 0 && !Object.is(n, -0));

/** A name short enough for a message. */
export const brief = (name: string): string =>
  name.length > 200 ? `${name.slice(0, 200)}…` : name;

/** A value of the header for a message: short, however long or deep the header made it. */
function display(value: unknown): string {
  if (Array.isArray(value)) {
    const items = value.slice(0, 8).map((item) => (Array.isArray(item) ? '[…]' : display(item)));
    return `[${items.join(',')}${value.length > 8 ? ',…' : ''}]`;
  }
  if (typeof value === 'object' && value !== null) return '{…}';
  return Object.is(value, -0) ? '-0' : brief(String(value));
}
