import { AttuneError, nearest } from '../errors.ts';
import { bytesOf, type DType, type NDArray } from '../runtime/array.ts';
import { openSafetensors } from './safetensors.ts';

export interface WeightEntry {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly source: { file: string; offset: number; length: number } | undefined;
  load(): NDArray;
}

export class Weights {
  readonly #entries: ReadonlyMap<string, WeightEntry>;
  private constructor(entries: ReadonlyMap<string, WeightEntry>) {
    this.#entries = entries;
  }
  static fromArrays(arrays: Readonly<Record<string, NDArray>>): Weights {
    return new Weights(
      new Map(
        Object.entries(arrays).map(([name, a]) => [
          name,
          { name, dtype: a.dtype, shape: a.shape, source: undefined, load: () => a },
        ]),
      ),
    );
  }
  static fromFile(path: string): Weights {
    const f = openSafetensors(path);
    return new Weights(
      new Map(
        [...f.tensors.values()].map((t) => [
          t.name,
          {
            name: t.name,
            dtype: t.dtype,
            shape: t.shape,
            source: { file: f.path, offset: t.offset, length: t.length },
            load: () => f.read(t.name),
          },
        ]),
      ),
    );
  }
  static fromFolderIndex(path: string): Weights {
    throw new Error(path);
  }
  static overlay(...parts: readonly Weights[]): Weights {
    return new Weights(new Map(parts.flatMap((p) => [...p.#entries])));
  }
  has(name: string): boolean {
    return this.#entries.has(name);
  }
  names(): Iterable<string> {
    return this.#entries.keys();
  }
  entry(name: string): WeightEntry {
    const e = this.#entries.get(name);
    if (!e)
      throw new AttuneError(
        'MISSING_WEIGHT',
        `No weight ${name}; nearest: ${nearest(name, this.#entries.keys()).join(', ')}.`,
      );
    return e;
  }
  prefixed(prefix: string): Weights {
    return new Weights(
      new Map([...this.#entries].map(([n, e]) => [prefix + n, { ...e, name: prefix + n }])),
    );
  }
  renamed(rename: (name: string) => string | undefined): Weights {
    return new Weights(
      new Map(
        [...this.#entries].flatMap(([name, e]) => {
          const to = rename(name);
          return to === undefined ? [] : [[to, { ...e, name: to }] as const];
        }),
      ),
    );
  }
}
