/** SHA-256 of files and of parts of them, remembered between runs: gigabytes are not read again at every start. */

import { createHash } from 'node:crypto';
import { fstatSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

import { cacheFolder } from './cache-folder.ts';
import { hashOfBytes, makeFolder, stateOf, withFile } from './file.ts';

/** What a file, or a part of one, holds. */
export interface FileHash {
  /** Bytes. */
  readonly size: number;
  /** In hexadecimal. */
  readonly sha256: string;
}

/** A stretch of a file, in bytes. */
export interface Part {
  readonly offset: number;
  readonly length: number;
}

/** Within so many milliseconds a file may change twice and have the same time. */
const COARSE = 2000;

/** What a file's bytes are known by: the note they are kept in, and the state they were read in. */
interface Known {
  readonly note: string;
  readonly state: string;
}

/**
 * Hashes by path, one small file each. A hash is remembered as long as the file's state (`stateOf`) stays; that of
 * a file which has only just been written is not, since its times could not tell a second change.
 */
export class HashBook {
  readonly #folder: string | undefined;
  readonly #verify: boolean;
  readonly #read = new Map<string, string>();
  #writable = true;

  /** Kept in `folder`, unless it is said otherwise that of the cache. With `verify` every file is read, once. */
  constructor({
    folder = cacheFolder(),
    verify = false,
  }: { readonly folder?: string | undefined; readonly verify?: boolean } = {}) {
    this.#folder = folder;
    this.#verify = verify;
  }

  /** False where nothing can be kept: there is no folder, or it refused a write. */
  get writable(): boolean {
    return this.#writable && this.#folder !== undefined;
  }

  /** The hash of a file or a part of it, if it is remembered. Throws as `of` does. */
  find(path: string, part?: Part): string | undefined {
    return withFile(path, (handle, real) => this.#found(knownBy(handle, real, part)));
  }

  /**
   * The hash of a file or a part of it, with the size of what was hashed. `settled` says that the file is never
   * written in its place, so that its hash may be kept at once. Throws MISSING_FILE, or BAD_FILE for a folder and
   * for a file that ends before the part does.
   */
  of(path: string, part?: Part, { settled = false } = {}): FileHash {
    return withFile(path, (handle, real, whole) => {
      const { offset, length: size } = part ?? { offset: 0, length: whole };
      const known = knownBy(handle, real, part);
      const before = this.#found(known);
      if (before !== undefined) return { size, sha256: before };
      const sha256 = hashOfBytes(handle, offset, size, path);
      if (knownBy(handle, real, part).state !== known.state) return { size, sha256 };
      this.#read.set(`${known.note}\n${known.state}`, sha256);
      this.#keep(known, sha256, settled ? -Infinity : fstatSync(handle).ctimeMs);
      return { size, sha256 };
    });
  }

  #found({ note, state }: Known): string | undefined {
    const read = this.#read.get(`${note}\n${state}`);
    if (read !== undefined || this.#verify || this.#folder === undefined) return read;
    try {
      const text = readFileSync(this.#fileOf(this.#folder, note), 'latin1');
      const sha256 = text.slice(state.length + 1);
      return text.startsWith(`${state}\n`) && /^[0-9a-f]{64}$/.test(sha256) ? sha256 : undefined;
    } catch {
      return undefined;
    }
  }

  /** A note that cannot be kept costs time, nothing else. */
  #keep({ note, state }: Known, sha256: string, written: number): void {
    if (this.#folder === undefined) return;
    const file = this.#fileOf(this.#folder, note);
    const temporary = `${file}.${process.pid}.tmp`;
    try {
      makeFolder(dirname(file), 0o700);
      writeFileSync(temporary, `${state}\n${sha256}`);
      // The disk's own clock says how long ago the file was written.
      if (statSync(temporary).mtimeMs < written + COARSE) rmSync(temporary);
      else renameSync(temporary, file);
    } catch {
      this.#writable = false;
    }
  }

  #fileOf(folder: string, note: string): string {
    return join(folder, 'hashes', note.slice(0, 2), note);
  }
}

function knownBy(handle: number, real: string, part?: Part): Known {
  const about = part ? [real, part.offset, part.length] : [real];
  return {
    note: createHash('sha256').update(about.join('\n')).digest('hex'),
    state: stateOf(fstatSync(handle, { bigint: true })),
  };
}
