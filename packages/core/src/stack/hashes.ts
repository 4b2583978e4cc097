/** SHA-256 of files, remembered between runs: a file of 4 GB is not read at every start. */

import { mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

import { AttuneError, cacheFolder, hashOf, stateOf } from '@attune/engine';
import { z } from 'zod';

export interface FileHash {
  /** Bytes. */
  readonly size: number;
  readonly sha256: string;
}

const Book = z.record(z.string(), z.object({ stamp: z.string(), sha256: z.string() }));

/** Within so many milliseconds a file may change twice and have the same time. */
const COARSE = 2000;

/** Where hashes are remembered unless it is said otherwise; nowhere with an empty `ATTUNE_CACHE`. */
export function hashBookFile(): string | undefined {
  const folder = cacheFolder();
  return folder === undefined ? undefined : join(folder, 'hashes.json');
}

/**
 * Hashes by path. One is remembered as long as the file's state (`stateOf`) stays; that of a file which
 * has only just been written is not, since its times could not tell a second change.
 */
export class HashBook {
  readonly #file: string | undefined;
  readonly #verify: boolean;
  readonly #read = new Map<string, string>();
  #known: z.infer<typeof Book> | undefined;

  /** With `verify` every file is read, once. */
  constructor({ file = hashBookFile(), verify = false } = {}) {
    this.#file = file;
    this.#verify = verify;
  }

  /** Throws MISSING_FILE for a path that is no file. */
  of(path: string): FileHash {
    const stat = statSync(path, { bigint: true, throwIfNoEntry: false });
    if (!stat?.isFile())
      throw new AttuneError('MISSING_FILE', `${path} is no file; nothing to hash.`, { path });
    const size = Number(stat.size);
    const stamp = stateOf(stat);
    const before = this.#read.get(`${path}\n${stamp}`);
    if (before !== undefined) return { size, sha256: before };
    const known = this.#load()[path];
    if (!this.#verify && known?.stamp === stamp) return { size, sha256: known.sha256 };
    const sha256 = hashOf(path);
    this.#read.set(`${path}\n${stamp}`, sha256);
    this.#keep(path, { stamp, sha256 }, Number(stat.ctimeMs));
    return { size, sha256 };
  }

  #load(): z.infer<typeof Book> {
    if (this.#known) return this.#known;
    try {
      if (this.#file === undefined) return (this.#known = {});
      this.#known = Book.parse(JSON.parse(readFileSync(this.#file, 'utf8')));
    } catch {
      // None yet, or not ours: what it held is found again.
      this.#known = {};
    }
    return this.#known;
  }

  /** A book that cannot be kept costs time, nothing else. */
  #keep(path: string, entry: z.infer<typeof Book>[string], written: number): void {
    if (this.#file === undefined) return;
    const known = { ...this.#load(), [path]: entry };
    const temporary = `${this.#file}.${process.pid}.tmp`;
    try {
      mkdirSync(dirname(this.#file), { recursive: true });
      writeFileSync(temporary, JSON.stringify(known));
      if (statSync(temporary).mtimeMs < written + COARSE) return rmSync(temporary);
      renameSync(temporary, this.#file);
      this.#known = known;
    } catch {
      // As above.
    }
  }
}
