/** Files of tensors: read lazily and strictly, written atomically. */

import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from 'node:fs';

import { AttuneError, badArgument, badFile, nearest } from '../errors.ts';
import {
  bytesOf,
  type DType,
  fromBytes,
  itemSize,
  type NDArray,
  sizeOf,
} from '../runtime/array.ts';
import { fromEights } from './eights.ts';
import { hashOf, readBytes, reasonOf, withFile } from './file.ts';
import { brief, dtypes, maxHeader, parseHeader, type TensorEntry } from './header.ts';

/** An open file: its header is in memory, tensors are read on demand. Keeps no handle. */
export interface SafetensorsFile {
  /** The real path, symbolic links resolved. */
  readonly path: string;
  /** Bytes. */
  readonly size: number;
  readonly metadata: Readonly<Record<string, string>>;
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  /** The values of one tensor, freshly read. Throws MISSING_WEIGHT, or BAD_FILE where reading fails. */
  read(name: string): NDArray;
  /** SHA-256 of the bytes after the header, in hexadecimal: unchanged by edits of the metadata. */
  payloadHash(): string;
}

/**
 * Opens a .safetensors file and checks its whole header; files may be larger than 4 GB. Throws
 * MISSING_FILE for a path that cannot be opened and BAD_FILE for anything that is not such a file.
 */
export function openSafetensors(file: string): SafetensorsFile {
  const { path, size, header, start } = withFile(file, (handle, real, all) => {
    if (all < 8) throw badFile(file, `it has ${all} bytes, too few for a safetensors header`);
    const length = Buffer.from(readBytes(handle, 0, 8, file)).readBigUInt64LE();
    if (length > BigInt(maxHeader))
      throw badFile(
        file,
        `its header claims ${length} bytes; it is no safetensors file, or a hostile one`,
      );
    const bytes = Number(length);
    if (bytes + 8 > all)
      throw badFile(file, `its header claims ${bytes} bytes, but it has only ${all}`);
    const text = readBytes(handle, 8, bytes, file);
    return {
      path: real,
      size: all,
      start: 8 + bytes,
      header: parseHeader(text, 8 + bytes, all, file),
    };
  });
  return {
    path,
    size,
    ...header,
    read: (name) => {
      const entry = header.tensors.get(name);
      if (!entry)
        throw missingWeight(`${file} has no tensor ${brief(name)}`, name, header.tensors.keys());
      const bytes = withFile(path, (handle) => readBytes(handle, entry.offset, entry.length, file));
      const { dtype, eight, shape } = entry;
      return eight ? fromEights(bytes, eight, shape) : fromBytes(bytes, dtype, shape);
    },
    payloadHash: () => hashOf(path, start),
  };
}

/** Bytes handled at a time. */
const chunk = 16 * 2 ** 20;

/** Longest name that is compared letter by letter, and how many are. */
const [longest, compared] = [256, 256];

/**
 * The error for a name that is not among `names`: `what` happened, then the nearest names. Only those that
 * share the most letters at both ends are measured, so that a large store answers quickly.
 */
export function missingWeight(what: string, name: string, names: Iterable<string>): AttuneError {
  const word = name.slice(0, longest);
  const candidates = [...names]
    .filter((other) => other.length <= longest)
    .map((other) => ({ other, shared: sharedEnds(word, other) }))
    .toSorted((a, b) => b.shared - a.shared)
    .slice(0, compared);
  const near = nearest(
    word,
    candidates.map(({ other }) => other),
  );
  return new AttuneError('MISSING_WEIGHT', `${what}; nearest: ${near.join(', ') || 'none'}.`, {
    name,
    nearest: near,
  });
}

/** Letters that two names share at their beginning and at their end, less what one is longer. */
function sharedEnds(a: string, b: string): number {
  const short = Math.min(a.length, b.length);
  let head = 0;
  while (head < short && a[head] === b[head]) head++;
  let tail = 0;
  while (tail < short - head && a.at(-1 - tail) === b.at(-1 - tail)) tail++;
  return head + tail - (Math.max(a.length, b.length) - short);
}

/** Named tensors, as an object or as pairs such as a Map's. */
type Tensors = Iterable<readonly [string, NDArray]> | Readonly<Record<string, NDArray>>;

const namesOf = Object.fromEntries(
  Object.entries(dtypes).map(([name, dtype]) => [dtype, name]),
) as Readonly<Record<DType, string>>;

/**
 * The pieces of a file that holds these tensors, none of them copied: wider types first, then by name, as
 * the reference writes, so that every tensor begins at a multiple of its item size.
 */
function layOut(
  tensors: Tensors,
  metadata: Readonly<Record<string, string>>,
): readonly Uint8Array[] {
  const pairs = Symbol.iterator in tensors ? [...tensors] : Object.entries(tensors);
  const named = new Map<string, NDArray>(pairs);
  if (named.size < pairs.length)
    throw badArgument('writeSafetensors', 'a name occurs twice', 'give every tensor its own name');
  const order = [...named].toSorted(
    ([a, x], [b, y]) => itemSize[y.dtype] - itemSize[x.dtype] || (a < b ? -1 : 1),
  );
  const entries: [string, unknown][] =
    Object.keys(metadata).length > 0 ? [['__metadata__', metadata]] : [];
  const payload: Uint8Array[] = [];
  let at = 0;
  for (const [name, array] of order) {
    const bytes = bytesOf(array);
    checkTensor(name, array, bytes.length);
    const { dtype, shape } = array;
    entries.push([name, { dtype: namesOf[dtype], shape, data_offsets: [at, at + bytes.length] }]);
    payload.push(bytes);
    at += bytes.length;
  }
  // fromEntries, since assignment would take the name __proto__ for the prototype.
  const json = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
  const head = Buffer.alloc(8 + Math.ceil(json.length / 8) * 8, ' ');
  if (head.length - 8 > maxHeader)
    throw badArgument(
      'writeSafetensors',
      `the header has ${json.length} bytes, the format allows ${maxHeader}`,
      'write several files',
    );
  head.writeBigUInt64LE(BigInt(head.length - 8));
  json.copy(head, 8);
  return [head, ...payload];
}

/** Refuses what would make a file that cannot be read back. */
function checkTensor(name: string, { dtype, shape }: NDArray, length: number): void {
  if (name === '__metadata__')
    throw badArgument(
      'writeSafetensors',
      'a tensor is named __metadata__, which the format reserves',
      'rename it',
    );
  const needed = sizeOf(shape) * itemSize[dtype];
  if (needed !== length)
    throw new AttuneError(
      'SHAPE_MISMATCH',
      `The tensor ${brief(name)} of type ${dtype} and shape [${shape}] needs ${needed} bytes, it has ${length}.`,
      { name, shape, length },
    );
}

/**
 * Writes tensors to a file, all or nothing: a temporary file beside it, made durable, then renamed.
 * Equal tensors and metadata give equal bytes, in whatever order they come. Throws BAD_ARGUMENT or
 * SHAPE_MISMATCH for tensors that no file can hold, WRITE_FAILED where the disk refuses.
 */
export function writeSafetensors(
  path: string,
  tensors: Tensors,
  metadata: Readonly<Record<string, string>> = {},
): void {
  const pieces = layOut(tensors, metadata);
  const temporary = `${path}.${process.pid}.tmp`;
  let handle: number | undefined;
  try {
    handle = openSync(temporary, 'w');
    for (const piece of pieces) writeAll(handle, piece);
    fsyncSync(handle);
    closeSync(handle);
    handle = undefined;
    renameSync(temporary, path);
  } catch (error) {
    if (handle !== undefined) closeSync(handle);
    rmSync(temporary, { force: true });
    throw new AttuneError(
      'WRITE_FAILED',
      `${path} could not be written: ${reasonOf(error)}. Nothing was changed.`,
      { path },
    );
  }
}

/** The bytes of a file that holds these tensors. Throws as `writeSafetensors` does. */
export function encodeSafetensors(
  tensors: Tensors,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  return Buffer.concat(layOut(tensors, metadata));
}

function writeAll(handle: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length;)
    done += writeSync(handle, bytes, done, Math.min(bytes.length - done, chunk));
}
