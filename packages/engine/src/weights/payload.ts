/** Hashes of weights' bytes, without reading gigabytes again at every start. */

import { createHash } from 'node:crypto';
import { fstatSync } from 'node:fs';

import { bytesOf, type NDArray } from '../runtime/array.ts';
import { hashOfBytes, stateOf, withFile } from './file.ts';
import type { WeightEntry } from './store.ts';

/** Keeps hashes, by a text that says what was hashed. */
export interface Notes {
  find(about: string): string | undefined;
  keep(about: string, hash: string): void;
  /** False where nothing can be kept: then no file is read for a hash. */
  readonly writable: boolean;
}

/** SHA-256 of an array's bytes, in hexadecimal. */
export const hashOfArray = (array: NDArray): string =>
  createHash('sha256').update(bytesOf(array)).digest('hex');

/**
 * SHA-256 of a weight's bytes as they are stored, in hexadecimal. A weight in a file is read once for each
 * path and state (`stateOf`) of that file: one moved or touched is read again. Undefined where no note is
 * found and none can be kept. Throws as reading the weight does.
 */
export function payloadHash(entry: WeightEntry, notes: Notes): string | undefined {
  const { source } = entry;
  if (!source) return hashOfArray(entry.load());
  const { file, offset, length } = source;
  return withFile(file, (handle) => {
    const state = (): string =>
      [file, stateOf(fstatSync(handle, { bigint: true })), offset, length].join('\n');
    const before = state();
    const known = notes.find(before);
    if (known && /^[0-9a-f]{64}$/.test(known)) return known;
    if (!notes.writable) return undefined;
    const found = hashOfBytes(handle, offset, length, file);
    if (state() === before) notes.keep(before, found);
    return found;
  });
}
