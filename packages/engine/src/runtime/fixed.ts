/** Fixed values: computed once into the cache folder, then read like any other frozen weight. */

import { createHash } from 'node:crypto';
import { createRequire } from 'node:module';
import { parse } from 'node:path';

import { fixedValues } from '../graph/fixed.ts';
import type { Tensor } from '../graph/tensor.ts';
import { emit } from '../onnx/emit.ts';
import { cacheFolder } from '../weights/cache-folder.ts';
import { Cache } from '../weights/cache.ts';
import type { WeightEntry, Weights } from '../weights/store.ts';
import { reshaped } from '../weights/view.ts';
import type { NDArray } from './array.ts';
import type { Runtime } from './runtime.ts';

/** What a fixed value is made from, and where. */
interface Making {
  readonly runtime: Runtime;
  readonly weights: Weights;
}

/** A store of fixed values. Where its folder refuses, values stay in their graphs. */
export class FixedValues {
  readonly #cache: Cache | undefined;
  readonly #underway = new Map<string, Promise<WeightEntry | undefined>>();

  /** `folder` undefined: nothing is stored. */
  constructor(folder: string | undefined) {
    this.#cache = folder === undefined ? undefined : new Cache(folder);
  }

  /** The stored values that a model of `outputs`, fed at `boundary`, reads; what is missing is made. */
  async of(
    outputs: readonly Tensor[],
    boundary: { has(t: Tensor): boolean },
    making: Making,
  ): Promise<Map<Tensor, WeightEntry>> {
    const stored = new Map<Tensor, WeightEntry>();
    if (!this.#cache) return stored;
    for (const [t, from] of fixedValues(outputs, boundary)) {
      const entry = await this.#entry(this.#cache, from, making);
      // One model's files lie on one drive (see `emit`).
      if (entry?.source && parse(entry.source.file).root === parse(process.cwd()).root)
        stored.set(t, reshaped(entry, t.shape));
    }
    return stored;
  }

  async #entry(cache: Cache, t: Tensor, making: Making): Promise<WeightEntry | undefined> {
    const key = keyOf(cache, t, making);
    if (key === undefined) return undefined;
    let entry = this.#underway.get(key);
    if (!entry) {
      entry = this.#find(cache, key, t, making).finally(() => this.#underway.delete(key));
      this.#underway.set(key, entry);
    }
    return entry;
  }

  async #find(cache: Cache, key: string, t: Tensor, making: Making) {
    const known = cache.read(key);
    if (known || !cache.writable) return known;
    return cache.write(key, await compute(t, making));
  }
}

/** The store of every program that is given none. */
let shared: FixedValues | undefined;
export const sharedFixed = (): FixedValues => (shared ??= new FixedValues(cacheFolder()));

/**
 * What a value depends on: the model that computes it, with the hash of each weight's bytes in the place
 * of its address, and what runs it. Undefined where a hash would have to be found anew at every start.
 */
function keyOf(cache: Cache, t: Tensor, { runtime, weights }: Making): string | undefined {
  let known = true;
  const { model } = emit({
    outputs: [t],
    boundary: new Map(),
    weight: (name) => {
      const entry = weights.entry(name);
      const hash = cache.hash(entry);
      known &&= hash !== undefined;
      return { ...entry, source: { file: hash ?? '', offset: 0, length: 0 } };
    },
  });
  if (!known) return undefined;
  const hash = createHash('sha256');
  hash.update(`onnxruntime ${onnxruntime()} ${runtime.device} ${process.arch}\n`);
  return hash.update(model).digest('hex');
}

let version: string | undefined;
function onnxruntime(): string {
  const require = createRequire(import.meta.url);
  return (version ??= (require('onnxruntime-node/package.json') as { version: string }).version);
}

async function compute(t: Tensor, { runtime, weights }: Making): Promise<NDArray> {
  const { model, outputs } = emit({
    outputs: [t],
    boundary: new Map(),
    weight: (name) => weights.entry(name),
  });
  const session = await runtime.load(model, 'mapped');
  try {
    return (await session.run({}, outputs))[outputs[0]];
  } finally {
    await session.release();
  }
}
