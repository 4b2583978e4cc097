/** Hashes of weights' bytes, without reading gigabytes again at every start. */

import { createHash } from 'node:crypto';
import { fstatSync } from 'node:fs';

import { bytesOf, type NDArray } from '../runtime/array.ts';
import { readBytes, withFile } from './file.ts';
import type { WeightEntry } from './store.ts';

/** Keeps hashes, by a text that says what was hashed. */
export interface Notes {
  find(about: string): string | undefined;
  keep(about: string, hash: string): void;
  /** False where nothing can be kept: then no file is read for a hash. */
  readonly writable: boolean;
}

/** Bytes hashed at a time. */
const chunk = 16 * 2 ** 20;

/** SHA-256 of an array's bytes, in hexadecimal. */
export const hashOf = (array: NDArray): string =>
  createHash('sha256').update(bytesOf(array)).digest('hex');

/**
 * SHA-256 of a weight's bytes as they are stored, in hexadecimal. A weight in a file is read once for each
 * state of that file: its path, inode, size and times of change to the nanosecond, as build tools trust
 * them. A file changed without any of these is not noticed; one moved or touched is read again. Undefined
 * where no note is found and none can be kept. Throws as reading the weight does.
 */
export function payloadHash(entry: WeightEntry, notes: Notes): string | undefined {
  const { source } = entry;
  if (!source) return hashOf(entry.load());
  const { file, offset, length } = source;
  return withFile(file, (handle) => {
    const state = (): string => {
      const { ino, size, mtimeNs, ctimeNs } = fstatSync(handle, { bigint: true });
      return [file, ino, size, mtimeNs, ctimeNs, offset, length].join('\n');
    };
    const before = state();
    const known = notes.find(before);
    if (known && /^[0-9a-f]{64}$/.test(known)) return known;
    if (!notes.writable) return undefined;
    const hash = createHash('sha256');
    for (let at = 0; at < length; at += chunk)
      hash.update(readBytes(handle, offset + at, Math.min(chunk, length - at), file));
    const found = hash.digest('hex');
    if (state() === before) notes.keep(before, found);
    return found;
  });
}
