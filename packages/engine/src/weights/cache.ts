/** Arrays that were computed, in the cache folder. */

import { createHash } from 'node:crypto';
import { mkdtempSync, renameSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';

import { bytesOf, type NDArray } from '../runtime/array.ts';
import { makeFolder } from './file.ts';
import { HashBook } from './hashes.ts';
import { writeSafetensors } from './safetensors.ts';
import { type WeightEntry, Weights } from './store.ts';

/** SHA-256 of an array's bytes, in hexadecimal. */
const hashOfArray = (array: NDArray): string =>
  createHash('sha256').update(bytesOf(array)).digest('hex');

/** Arrays by key, one file each. A folder that cannot be written still gives what it holds; no fault of it is thrown. */
export class Cache {
  readonly folder: string;
  readonly #hashes: HashBook;
  #writable = true;

  constructor(folder: string) {
    this.folder = folder;
    this.#hashes = new HashBook({ folder });
  }

  /** False once a write was refused: it is not tried again. */
  get writable(): boolean {
    return this.#writable && this.#hashes.writable;
  }

  /** The array of a key in its file; undefined where it is not there, or not what was written. */
  read(key: string): WeightEntry | undefined {
    try {
      const weights = Weights.fromFile(this.#fileOf(key));
      const entry = weights.entry('value');
      const sound =
        weights.metadata.key === key && weights.metadata.sha256 === this.#hash(entry, true);
      return sound ? entry : undefined;
    } catch {
      return undefined;
    }
  }

  /** Writes an array aside and moves it to its place. Undefined where the folder refuses. */
  write(key: string, value: NDArray): WeightEntry | undefined {
    if (!this.writable) return undefined;
    let staging: string | undefined;
    try {
      const file = this.#fileOf(key);
      makeFolder(dirname(file), 0o700);
      // A folder of its own: a process's number may occur twice where machines share a cache.
      staging = mkdtempSync(join(this.folder, 'staged-'));
      const staged = join(staging, 'value.safetensors');
      writeSafetensors(staged, { value }, { key, sha256: hashOfArray(value) });
      renameSync(staged, file);
    } catch {
      this.#writable = false;
    } finally {
      if (staging) rmSync(staging, { recursive: true, force: true });
    }
    // Another process may have been faster where a file in use cannot be replaced.
    return this.read(key);
  }

  /**
   * SHA-256 of a weight's bytes as they are stored, in hexadecimal; of one in a file it is remembered. Undefined
   * where it is not and cannot be: then no file is read for it at every start. Throws as reading the weight does.
   */
  hash(entry: WeightEntry): string | undefined {
    return this.#hash(entry, false);
  }

  #hash(entry: WeightEntry, settled: boolean): string | undefined {
    if (!entry.source) return hashOfArray(entry.load());
    const { file, ...part } = entry.source;
    return (
      this.#hashes.find(file, part) ??
      (this.writable ? this.#hashes.of(file, part, { settled }).sha256 : undefined)
    );
  }

  #fileOf(key: string): string {
    return join(this.folder, 'values', key.slice(0, 2), `${key}.safetensors`);
  }
}
