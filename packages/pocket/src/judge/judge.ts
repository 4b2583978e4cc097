/** The trained judges at work: what frames show, and how far two frames are apart in features. */

import { existsSync } from 'node:fs';
import { join } from 'node:path';

import { loadModel, ModelRunner, type PluginLoader } from '@attune/core';
import { AttuneError, type F32Array, type NDArray, type Runtime } from '@attune/engine';

import type { Scene } from '../world/scene.ts';
import { argmaxRows, type Head, HEAD_NAMES, HEADS, labelOf } from './labels.ts';

/** Classes of frames as indices, by head. */
export type Seen = Readonly<Record<Head, readonly number[]>>;

/** Frames at a time; any number of frames is padded up to a multiple by the last one. */
const BATCH = 25;

/** A trained classifier of frames. */
export class Judge {
  readonly #runner: ModelRunner;
  readonly #net: string;

  private constructor(runner: ModelRunner, net: string) {
    this.#runner = runner;
    this.#net = net;
  }

  /** `folder` holds a classifier with weights: pocket's `judge` or `features`, or a run's `best/<name>`. */
  static async open(folder: string, runtime: Runtime, loader: PluginLoader): Promise<Judge> {
    if (!existsSync(join(folder, 'model.safetensors')))
      throw new AttuneError('BAD_FILE', `${folder} holds no model.safetensors: train the judge.`, {
        path: folder,
      });
    const model = await loadModel(folder, { loader });
    return new Judge(new ModelRunner(model, runtime), Object.keys(model.nets)[0]);
  }

  /** What each of the frames [N, 3, H, W] in [0, 1] shows. */
  async see(frames: F32Array): Promise<Seen> {
    const found = Object.fromEntries(HEAD_NAMES.map((head) => [head, [] as number[]]));
    await this.#inBatches(frames, (out, count) => {
      for (const head of HEAD_NAMES) {
        const rows = argmaxRows(out[`logits.${head}`].data as Float32Array, HEADS[head].length);
        found[head].push(...rows.slice(0, count));
      }
    });
    return found as unknown as Seen;
  }

  /** The last level's features of frames [N, 3, H, W] in [0, 1]: [N, C, h, w]. */
  async features(frames: F32Array): Promise<F32Array> {
    const parts: F32Array[] = [];
    await this.#inBatches(frames, (out, count) => {
      const last = Object.keys(out).filter((name) => name.startsWith('level.')).length - 1;
      const { shape, data } = out[`level.${last}`] as F32Array;
      const size = data.length / shape[0];
      parts.push({
        dtype: 'f32',
        shape: [count, ...shape.slice(1)],
        data: data.slice(0, count * size),
      });
    });
    const data = new Float32Array(parts.reduce((sum, part) => sum + part.data.length, 0));
    let at = 0;
    for (const part of parts) {
      data.set(part.data, at);
      at += part.data.length;
    }
    return { dtype: 'f32', shape: [frames.shape[0], ...parts[0].shape.slice(1)], data };
  }

  async #inBatches(
    { shape: [N, C, H, W], data }: F32Array,
    take: (out: Readonly<Record<string, NDArray>>, count: number) => void,
  ): Promise<void> {
    const size = C * H * W;
    for (let from = 0; from < N; from += BATCH) {
      const count = Math.min(BATCH, N - from);
      const pixels = new Float32Array(BATCH * size);
      for (let i = 0; i < count * size; i++) pixels[i] = 2 * data[from * size + i] - 1;
      const out = await this.#runner.run(
        { net: this.#net, dims: { B: BATCH, F: 1, H, W } },
        { pixels: { dtype: 'f32', shape: [BATCH, C, H, W], data: pixels } },
      );
      take(out, count);
    }
  }

  /** Releases its programs. */
  release(): Promise<void> {
    return this.#runner.release();
  }
}

/** For each frame and head, whether the judge sees what the scene has. */
export const recognised = (seen: Seen, scenes: readonly Scene[]): Record<Head, boolean[]> =>
  Object.fromEntries(
    HEAD_NAMES.map((head) => [
      head,
      scenes.map((scene, k) => seen[head][k] === labelOf(scene, head)),
    ]),
  ) as Record<Head, boolean[]>;
