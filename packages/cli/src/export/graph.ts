/** A part of a stack as an ONNX model, adapters included, its weights inside or in one file beside it. */

import { closeSync, fsyncSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { basename, join } from 'node:path';

import { clipStrengths, type Model, traceNet } from '@attune/core';
import {
  ancestors,
  AttuneError,
  bytesOf,
  emit,
  isFrozen,
  isInput,
  itemSize,
  type NDArray,
  toF32,
  toHalf,
  type WeightEntry,
  Weights,
} from '@attune/engine';

import { outputName, type Part, type Value } from './part.ts';

export type StoredType = 'f32' | 'f16';

export interface GraphOptions {
  /** Where the files go. */
  readonly folder: string;
  /** How weights are stored; they are computed with in float32. */
  readonly weights: StoredType;
  /** Weights in a file of their own even where they would fit inside. */
  readonly external: boolean;
  /** Strengths as inputs `gate.<adapter>` instead of as the stack has them. */
  readonly liveStrengths: boolean;
  readonly metadata: Readonly<Record<string, string>>;
}

/** A part that was written. */
export interface Graph {
  readonly part: Part;
  readonly file: string;
  /** The file of its weights, where they are not inside. */
  readonly data: string | undefined;
  readonly inputs: readonly Value[];
  readonly outputs: readonly Value[];
  /** Bytes of its weights. */
  readonly size: number;
  /** Those of its weights that were rounded, as they were: of a big model, with their place in its file. */
  readonly rounded: Weights;
}

/** More than this is better mapped than parsed, and protobuf ends at 2 GiB. */
const INLINE = 256 * 2 ** 20;
const LIMIT = 2 ** 31 - 1;
/** Smaller weights stay inside, as in ONNX's own tools: shapes are inferred from some of them. */
const SMALL = 1024;

/** @throws WRITE_FAILED, NOT_FINITE for weights that 16 bits do not hold */
export function writeGraph(model: Model, part: Part, options: GraphOptions): Graph {
  const { folder, weights: type, external, liveStrengths, metadata } = options;
  const { traced } = traceNet(frozen(model), part.request);
  const roots = Object.entries(traced.outputs);
  const alive = ancestors(Object.values(traced.outputs));
  const fed = new Map(alive.filter(isInput).map((t) => [t.attrs.name, t]));
  const names = roots.map(([name]) => outputName(name, fed));
  const size = alive.filter(isFrozen).reduce((sum, t) => sum + itemSize[type] * t.size, 0);
  const file = `${part.name}.onnx`;
  const data = external || size > INLINE ? new DataFile(join(folder, `${file}.data`)) : undefined;
  const rounded = new Map<string, WeightEntry>();
  try {
    const { model: bytes, inputs } = emit({
      outputs: Object.values(traced.outputs),
      boundary: new Map(),
      names,
      metadata,
      about: part.about,
      fixed: new Map(Object.entries(liveStrengths ? {} : clipStrengths(model, { inputs: fed }))),
      weight: (name) => {
        const given = model.weights.entry(name);
        const own = storedAs(given, type);
        const source = data?.append(own.load());
        if (type === 'f16' && given.dtype !== 'f16')
          rounded.set(name, {
            ...own,
            source: size > INLINE && source ? { ...source, file: data!.path } : undefined,
          });
        return { ...own, source };
      },
    });
    if (bytes.length > LIMIT)
      throw new AttuneError(
        'TOO_BIG',
        `${file} would have ${bytes.length} bytes; an ONNX file ends at 2 GiB. Export with --external.`,
      );
    data?.close();
    writeFileSync(join(folder, file), bytes, { flush: true });
    const value = (name: string, { dtype, shape }: Pick<Value, 'dtype' | 'shape'>): Value => ({
      name,
      dtype,
      shape,
      about: part.about.get(name) ?? '',
    });
    return {
      part,
      file,
      data: data && basename(data.path),
      inputs: [...inputs].map(([name, t]) => value(name, t)),
      outputs: roots.map(([, t], i) => value(names[i], t)),
      size,
      rounded: Weights.fromEntries(rounded),
    };
  } finally {
    data?.close();
  }
}

/** The same model with nothing to be fed but its conditioning: low-rank matrices are weights like others. */
const frozen = (model: Model): Model => ({
  ...model,
  train: [],
  adapters: model.adapters.map(({ live: _live, train: _train, ...rest }) => rest),
});

/** A weight in the type it is stored in; rounded where that is narrower. */
function storedAs(entry: WeightEntry, type: StoredType): WeightEntry {
  const load = (): NDArray => {
    const value = entry.load();
    if (value.dtype === type) return value;
    const wide = toF32(value);
    if (type === 'f32') return wide;
    const most = wide.data.reduce((top, x) => Math.max(top, Math.abs(x)), 0);
    if (most < 65520) return toHalf(wide, 'f16');
    throw new AttuneError(
      'NOT_FINITE',
      `The weight ${entry.name} reaches ${most}; 16 bits hold up to 65504. Export with --weights f32.`,
      { name: entry.name },
    );
  };
  return { ...entry, dtype: type, source: undefined, load };
}

/** ONNX's external data: tensors one after another, each at a page of its own so that it can be mapped. */
class DataFile {
  readonly path: string;
  #handle: number | undefined;
  #end = 0;

  constructor(path: string) {
    this.path = path;
    this.#handle = openSync(path, 'w');
  }

  /** The place of a weight, or undefined for one so small that it stays inside. */
  append(array: NDArray): { file: string; offset: number; length: number } | undefined {
    const bytes = bytesOf(array);
    if (bytes.length < SMALL) return undefined;
    const offset = Math.ceil(this.#end / 4096) * 4096;
    for (let done = 0; done < bytes.length;)
      done += writeSync(
        this.#handle!,
        bytes,
        done,
        Math.min(bytes.length - done, 2 ** 24),
        offset + done,
      );
    this.#end = offset + bytes.length;
    return { file: basename(this.path), offset, length: bytes.length };
  }

  close(): void {
    if (this.#handle === undefined) return;
    const handle = this.#handle;
    this.#handle = undefined;
    fsyncSync(handle);
    closeSync(handle);
  }
}
