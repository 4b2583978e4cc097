/** The cache folder: what can be computed again. It may be deleted at any time. */

import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, isAbsolute, join } from 'node:path';

import type { NDArray } from '../runtime/array.ts';
import { hashOfArray, payloadHash, type Notes } from './payload.ts';
import { writeSafetensors } from './safetensors.ts';
import { type WeightEntry, Weights } from './store.ts';

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * The folder that `ATTUNE_CACHE` names, or `attune` in the platform's cache folder (`XDG_CACHE_HOME` or
 * ~/.cache, ~/Library/Caches, %LOCALAPPDATA%). Undefined, for no cache, where `ATTUNE_CACHE` is empty or
 * the user has no home.
 */
export function cacheFolder(
  env: Environment = process.env,
  platform: NodeJS.Platform = process.platform,
): string | undefined {
  if (env.ATTUNE_CACHE !== undefined) return env.ATTUNE_CACHE || undefined;
  const base =
    platform === 'win32'
      ? env.LOCALAPPDATA
      : platform === 'darwin'
        ? inHome(['Library', 'Caches'])
        : env.XDG_CACHE_HOME && isAbsolute(env.XDG_CACHE_HOME)
          ? env.XDG_CACHE_HOME
          : inHome(['.cache']);
  return base && join(base, 'attune');
}

function inHome(path: readonly string[]): string | undefined {
  try {
    return join(homedir(), ...path);
  } catch {
    return undefined;
  }
}

/**
 * Arrays by key, one file each, and notes of what was hashed. A folder that cannot be written still gives what
 * it holds; no fault of it is thrown.
 */
export class Cache implements Notes {
  readonly folder: string;
  #writable = true;

  constructor(folder: string) {
    this.folder = folder;
  }

  /** False once a write was refused: it is not tried again. */
  get writable(): boolean {
    return this.#writable;
  }

  /** The array of a key in its file; undefined where it is not there, or not what was written. */
  read(key: string): WeightEntry | undefined {
    try {
      const weights = Weights.fromFile(this.#fileOf(key));
      const entry = weights.entry('value');
      const sound = weights.metadata.key === key && weights.metadata.sha256 === this.hash(entry);
      return sound ? entry : undefined;
    } catch {
      return undefined;
    }
  }

  /** Writes an array aside and moves it to its place. Undefined where the folder refuses. */
  write(key: string, value: NDArray): WeightEntry | undefined {
    if (!this.#writable) return undefined;
    let staging: string | undefined;
    try {
      const file = this.#fileOf(key);
      mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
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

  /** As `payloadHash`. */
  hash(entry: WeightEntry): string | undefined {
    return payloadHash(entry, this);
  }

  find(about: string): string | undefined {
    try {
      return readFileSync(this.#noteOf(about), 'latin1');
    } catch {
      return undefined;
    }
  }

  keep(about: string, hash: string): void {
    try {
      const file = this.#noteOf(about);
      mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
      writeFileSync(file, hash);
    } catch {
      this.#writable = false;
    }
  }

  #fileOf(key: string): string {
    return join(this.folder, 'values', key.slice(0, 2), `${key}.safetensors`);
  }

  #noteOf(about: string): string {
    const name = createHash('sha256').update(about).digest('hex');
    return join(this.folder, 'hashes', name.slice(0, 2), name);
  }
}
