/** Hashes of weights' bytes, without reading gigabytes again at every start. */

import { createHash } from 'node:crypto';
import { fstatSync } from 'node:fs';

import { bytesOf, type NDArray } from '../runtime/array.ts';
import { readBytes, withFile } from './file.ts';
import type { WeightEntry } from './store.ts';

/** Keeps hashes, by a line that says what was hashed. */
export interface Remember {
  find(about: string): string | undefined;
  keep(about: string, hash: string): void;
}

/** Bytes hashed at a time. */
const chunk = 16 * 2 ** 20;

/** SHA-256 of an array's bytes, in hexadecimal. */
export const hashOf = (array: NDArray): string =>
  createHash('sha256').update(bytesOf(array)).digest('hex');

/**
 * SHA-256 of a weight's bytes as they are stored, in hexadecimal. A weight in a file is read once for each
 * state of that file: its path, inode, size and times of change to the nanosecond, as build tools trust
 * them. A file changed without any of these is not noticed; one moved or touched is read again.
 */
export function payloadHash(entry: WeightEntry, notes: Remember): string {
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
    const hash = createHash('sha256');
    for (let at = 0; at < length; at += chunk)
      hash.update(readBytes(handle, offset + at, Math.min(chunk, length - at), file));
    const found = hash.digest('hex');
    if (state() === before) notes.keep(before, found);
    return found;
  });
}
