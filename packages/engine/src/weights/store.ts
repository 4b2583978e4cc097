/** Named weights from files or from memory, as immutable views. Nothing is read before it is asked for. */

import { dirname, isAbsolute, join, normalize, sep } from 'node:path';

import { AttuneError, badFile } from '../errors.ts';
import type { DType, NDArray } from '../runtime/array.ts';
import { brief } from './header.ts';
import { parseJson, readText } from './json.ts';
import { missingWeight, openSafetensors } from './safetensors.ts';
import { isTorch, openTorch, type TorchFile } from './torch.ts';

/** One weight: what it is, where its bytes lie, and how to get them. */
export interface WeightEntry {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** The bytes' place in a file; undefined for a weight that lies nowhere as it is. */
  readonly source:
    | { readonly file: string; readonly offset: number; readonly length: number }
    | undefined;
  /** The file that it is read from in another form: 8-bit floats, tensors with gaps. */
  readonly origin?: string;
  /** The values, freshly read where they lie in a file. */
  load(): NDArray;
}

/** An immutable set of named weights. Views share their entries and load nothing. */
export class Weights {
  readonly #entries: ReadonlyMap<string, WeightEntry>;
  /** What the one file says of itself; empty for anything else. */
  readonly metadata: Readonly<Record<string, string>>;

  private constructor(
    entries: Iterable<readonly [string, WeightEntry]>,
    metadata: Readonly<Record<string, string>> = {},
  ) {
    this.#entries = new Map(entries);
    this.metadata = metadata;
  }

  /** Weights in memory; `load` gives the very arrays. */
  static fromArrays(
    arrays: Readonly<Record<string, NDArray>> | ReadonlyMap<string, NDArray>,
  ): Weights {
    const pairs = arrays instanceof Map ? [...arrays] : Object.entries(arrays);
    return new Weights(
      pairs.map(([name, array]) => {
        const { dtype, shape } = array;
        return [name, { name, dtype, shape, source: undefined, load: () => array }] as const;
      }),
    );
  }

  /** Entries of other sets, or views of them, under these names. */
  static fromEntries(entries: Iterable<readonly [name: string, entry: WeightEntry]>): Weights {
    return new Weights([...entries].map(([name, entry]) => [name, { ...entry, name }] as const));
  }

  /** One file: .safetensors, or a checkpoint of torch.save. Throws as `openSafetensors` and `openTorch` do. */
  static fromFile(path: string): Weights {
    if (isTorch(path)) return Weights.#ofTorch(openTorch(path));
    const file = openSafetensors(path);
    return new Weights(
      [...file.tensors.values()].map(({ name, dtype, eight, shape, offset, length }) => {
        const place = eight
          ? { source: undefined, origin: file.path }
          : { source: { file: file.path, offset, length } };
        return [name, { name, dtype, shape, ...place, load: () => file.read(name) }] as const;
      }),
      file.metadata,
    );
  }

  static #ofTorch({ path, tensors }: TorchFile): Weights {
    return new Weights(
      [...tensors.values()].map((tensor) => {
        const { name, dtype, shape, place } = tensor;
        const lies = place
          ? { source: { file: path, ...place } }
          : { source: undefined, origin: path };
        return [name, { name, dtype, shape, ...lies, load: () => tensor.load() }] as const;
      }),
    );
  }

  /**
   * A sharded set, by its `*.safetensors.index.json`. Every name must be in the shard the index says,
   * shards must lie in the index's folder, and no shard may hold names the index lacks. Throws BAD_FILE,
   * or MISSING_FILE for a shard that is not there.
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
            `the shard ${shard} holds ${brief(name)}, which the index ${map.has(name) ? `places in ${map.get(name)}` : 'lacks'}`,
          );
    return new Weights(
      [...map].map(([name, shard]) => {
        const weights = shards.get(shard)!;
        if (!weights.has(name))
          throw badFile(path, `it places ${brief(name)} in ${shard}, which does not hold it`);
        return [name, weights.entry(name)] as const;
      }),
    );
  }

  /** Several sets as one; of equal names the last one counts. */
  static overlay(...parts: readonly Weights[]): Weights {
    return new Weights(parts.flatMap((part) => [...part.#entries]));
  }

  /** Several sets as one; throws NAME_CLASH where two hold the same name. */
  static disjoint(...parts: readonly Weights[]): Weights {
    const seen = new Set<string>();
    for (const name of parts.flatMap((part) => [...part.names()])) {
      if (seen.has(name))
        throw new AttuneError('NAME_CLASH', `Two sets hold the weight ${brief(name)}.`, { name });
      seen.add(name);
    }
    return Weights.overlay(...parts);
  }

  /** Number of weights. */
  get size(): number {
    return this.#entries.size;
  }

  /** Whether there is a weight of this name. */
  has(name: string): boolean {
    return this.#entries.has(name);
  }

  /** All names, in the order of the file or of the parts that the set was made of. */
  names(): IterableIterator<string> {
    return this.#entries.keys();
  }

  /** A weight by name; a missing one is an error with the nearest names. */
  entry(name: string): WeightEntry {
    const entry = this.#entries.get(name);
    if (entry) return entry;
    throw missingWeight(`There is no weight ${brief(name)}`, name, this.#entries.keys());
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

  /**
   * Other names, by a function or a table; undefined, or a name the table lacks, leaves a weight out.
   * Throws NAME_CLASH where two weights would get the same name.
   */
  renamed(rename: ((name: string) => string | undefined) | ReadonlyMap<string, string>): Weights {
    const entries = new Map<string, WeightEntry>();
    const origins = new Map<string, string>();
    for (const [name, entry] of this.#entries) {
      const to = typeof rename === 'function' ? rename(name) : rename.get(name);
      if (to === undefined) continue;
      const other = origins.get(to);
      if (other !== undefined)
        throw new AttuneError(
          'NAME_CLASH',
          `${brief(other)} and ${brief(name)} both mean ${brief(to)}.`,
          { name, to },
        );
      origins.set(to, name);
      entries.set(to, { ...entry, name: to });
    }
    return new Weights(entries);
  }
}

function readIndex(path: string): Map<string, string> {
  const json = parseJson(readText(path), (what) => badFile(path, `it ${what}`));
  const map = (json as { weight_map?: unknown } | null)?.weight_map;
  if (typeof map !== 'object' || map === null || Array.isArray(map))
    throw badFile(path, 'it has no weight_map');
  return new Map(
    Object.entries(map).map(([name, shard]: [string, unknown]) => {
      if (typeof shard !== 'string' || shard === '')
        throw badFile(path, `the shard of ${brief(name)} is no file name`);
      const clean = normalize(shard);
      if (isAbsolute(clean) || clean.split(sep).includes('..'))
        throw badFile(path, `the shard ${brief(shard)} of ${brief(name)} lies outside the folder`);
      return [name, shard];
    }),
  );
}
