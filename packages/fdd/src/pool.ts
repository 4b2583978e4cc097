/** Samples a teacher made, kept so that the same data meets the same samples: in memory, and in a folder where there is one. */

import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';

import { type F32Array, Weights, writeSafetensors } from '@attune/engine';

export class Pool {
  readonly #folder: string | undefined;
  readonly #known = new Map<string, Promise<F32Array>>();

  constructor(folder?: string) {
    this.#folder = folder;
  }

  /** The samples of a key, made once. */
  get(key: string, make: () => Promise<F32Array>): Promise<F32Array> {
    let samples = this.#known.get(key);
    if (!samples) this.#known.set(key, (samples = this.#find(key, make)));
    return samples;
  }

  async #find(key: string, make: () => Promise<F32Array>): Promise<F32Array> {
    if (this.#folder === undefined) return make();
    const file = join(this.#folder, `${key}.safetensors`);
    if (existsSync(file)) return Weights.fromFile(file).entry('latents').load() as F32Array;
    const made = await make();
    mkdirSync(this.#folder, { recursive: true });
    writeSafetensors(file, { latents: made }, {});
    return made;
  }
}
