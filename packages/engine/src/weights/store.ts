/** Named weights from files or from memory, as immutable views. Nothing is read before it is asked for. */

import { readFileSync } from 'node:fs';
import { dirname, isAbsolute, join, normalize, sep } from 'node:path';

import { AttuneError, badFile, nearest } from '../errors.ts';
import type { DType, NDArray } from '../runtime/array.ts';
import { openSafetensors } from './safetensors.ts';

/** One weight: what it is, where its bytes lie, and how to get them. */
export interface WeightEntry {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** The bytes' place in a file; undefined for a weight in memory. */
  readonly source:
    | { readonly file: string; readonly offset: number; readonly length: number }
    | undefined;
  load(): NDArray;
}

export class Weights {
  readonly #entries: ReadonlyMap<string, WeightEntry>;

  private constructor(entries: Iterable<readonly [string, WeightEntry]>) {
    this.#entries = new Map(entries);
  }

  /** Weights in memory. */
  static fromArrays(arrays: Readonly<Record<string, NDArray>>): Weights {
    return new Weights(
      Object.entries(arrays).map(([name, array]) => {
        const { dtype, shape } = array;
        return [name, { name, dtype, shape, source: undefined, load: () => array }] as const;
      }),
    );
  }

  /** One .safetensors file. */
  static fromFile(path: string): Weights {
    const file = openSafetensors(path);
    return new Weights(
      [...file.tensors.values()].map(({ name, dtype, shape, offset, length }) => {
        const source = { file: file.path, offset, length };
        return [name, { name, dtype, shape, source, load: () => file.read(name) }] as const;
      }),
    );
  }

  /**
   * A sharded set, by its `*.safetensors.index.json`. Every name must be in the shard the index says,
   * shards must lie in the index's folder, and no shard may hold names the index lacks.
   */
  static fromFolderIndex(path: string): Weights {
    const map = readIndex(path);
    const folder = dirname(path);
    const shards = new Map<string, Weights>();
    for (const shard of new Set(map.values()))
      shards.set(shard, Weights.fromFile(join(folder, shard)));
    for (const [shard, weights] of shards)
      for (const name of weights.names())
        if (map.get(name) !== shard)
          throw badFile(
            path,
            `the shard ${shard} holds ${name}, which the index ${map.has(name) ? `places in ${map.get(name)}` : 'lacks'}`,
          );
    return new Weights(
      [...map].map(([name, shard]) => {
        const weights = shards.get(shard)!;
        if (!weights.has(name))
          throw badFile(path, `it places ${name} in ${shard}, which does not hold it`);
        return [name, weights.entry(name)] as const;
      }),
    );
  }

  /** Several sets as one; of equal names the last one counts. */
  static overlay(...parts: readonly Weights[]): Weights {
    return new Weights(parts.flatMap((part) => [...part.#entries]));
  }

  get size(): number {
    return this.#entries.size;
  }

  has(name: string): boolean {
    return this.#entries.has(name);
  }

  names(): IterableIterator<string> {
    return this.#entries.keys();
  }

  /** A weight by name; a missing one is an error with the nearest names. */
  entry(name: string): WeightEntry {
    const entry = this.#entries.get(name);
    if (entry) return entry;
    throw new AttuneError(
      'MISSING_WEIGHT',
      `There is no weight ${name}; nearest: ${nearest(name, this.#entries.keys()).join(', ') || 'none'}.`,
      { name },
    );
  }

  /** Every name with a prefix put before it. */
  prefixed(prefix: string): Weights {
    return this.renamed((name) => prefix + name);
  }

  /** The names that begin with a prefix, without it. */
  under(prefix: string): Weights {
    return this.renamed((name) =>
      name.startsWith(prefix) ? name.slice(prefix.length) : undefined,
    );
  }

  /** Other names; undefined leaves a weight out. Two weights may not get the same name. */
  renamed(rename: (name: string) => string | undefined): Weights {
    const entries = new Map<string, WeightEntry>();
    for (const [name, entry] of this.#entries) {
      const to = rename(name);
      if (to === undefined) continue;
      const other = entries.get(to);
      if (other)
        throw new AttuneError('NAME_CLASH', `${other.name} and ${name} both mean ${to}.`, {
          name,
          to,
        });
      entries.set(to, { ...entry, name: to });
    }
    return new Weights(entries);
  }
}

function readIndex(path: string): Map<string, string> {
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(path, 'utf8'));
  } catch (error) {
    throw badFile(
      path,
      `it cannot be read (${error instanceof Error ? error.message : String(error)})`,
    );
  }
  const map = (json as { weight_map?: unknown } | null)?.weight_map;
  if (typeof map !== 'object' || map === null) throw badFile(path, 'it has no weight_map');
  return new Map(
    Object.entries(map).map(([name, shard]: [string, unknown]) => {
      if (typeof shard !== 'string') throw badFile(path, `the shard of ${name} is no file name`);
      const clean = normalize(shard);
      if (isAbsolute(clean) || clean.split(sep).includes('..'))
        throw badFile(path, `the shard ${shard} of ${name} lies outside the folder`);
      return [name, shard];
    }),
  );
}
