/**
 * A teacher's fake score: the teacher's own stack with an adapter that learns to denoise what the student
 * makes. Score distillation against it instead of against the noise pulls the student's distribution to
 * the teacher's and not to its modes, so that nothing blurs (variational score distillation, Wang et al.
 * 2023; DMD, Yin et al. 2024).
 */

import { type Dims, mix, type ModelRunner, type Params, toVelocity } from '@attune/core';
import type { Cotangents, F32Array, NDArray, Rng } from '@attune/engine';

import type { FakeConfig } from './config.ts';
import { diffuse, velocity } from './sds.ts';
import { type Denoiser, timeRange } from './teacher.ts';
import { Trainee } from './trainee.ts';
import type { DataBatch, View } from './view.ts';

/** What a fake score found on generated latents. */
export interface FakeTurn {
  /** Mean squared error of the velocity, over the draws. */
  readonly loss: number;
  readonly grads: Readonly<Record<string, F32Array>>;
}

/** A fake score that has seen a batch. */
export interface ReadyFake extends Denoiser {
  /** Its denoising loss on generated latents, and the gradient. */
  learn(x0: F32Array, rng: Rng): Promise<FakeTurn>;
}

/** What a fake score is shown, and what it may keep. */
export interface FakeOptions {
  /** The teacher's own view of the data. */
  readonly view: View;
  readonly dims: Dims;
  /** Largest size of the forward values that are kept for the backward pass. */
  readonly bytes: number;
}

/** Learns the score of what the student makes. Its parameters are arguments: who trains it owns them. */
export class FakeScore {
  readonly #runner: ModelRunner;
  readonly #trainee: Trainee;
  readonly #config: FakeConfig;

  constructor(
    id: string,
    runner: ModelRunner,
    config: FakeConfig,
    { view, dims, bytes }: FakeOptions,
  ) {
    this.#runner = runner;
    this.#trainee = new Trainee(runner, {
      called: `The fake score of ${id}`,
      view,
      dims,
      remat: { steps: 1, bytes },
    });
    this.#config = config;
  }

  /** Parameters that train. */
  get names(): readonly string[] {
    return this.#trainee.names;
  }

  /** First values of what trains, copied: those of the teacher, so that the first residual is zero. */
  initial(): Record<string, Float32Array> {
    return this.#trainee.initial();
  }

  /** Reads a batch under given parameters: prompts encoded, clip-rate parts run. */
  async ready(params: Params, batch: DataBatch): Promise<ReadyFake> {
    const { schedule } = this.#trainee;
    const { sweep, feeds, at: timed } = await this.#trainee.ready(params, batch);
    const clip = await sweep.clip(feeds);
    const at = (noisy: F32Array, t: number): Record<string, NDArray> => ({
      ...feeds,
      ...timed(t),
      sample: noisy,
    });
    return {
      schedule,
      predict: async (noisy, t) => {
        const { outputs } = await sweep.step(clip, at(noisy, t));
        return outputs.sample as F32Array;
      },
      learn: async (x0, rng) => {
        const [first, last] = timeRange(schedule, this.#config.range);
        const { draws } = this.#config;
        const bar: Cotangents = new Map();
        let loss = 0;
        for (let i = 0; i < draws; i++) {
          const draw = rng.fork(i);
          const t = first + draw.int(last - first + 1);
          const level = schedule.level(t);
          const noise = draw.normals(x0.shape).data;
          const noisy: F32Array = { ...x0, data: diffuse(x0.data, noise, level) };
          const { outputs, tape } = await sweep.step(clip, at(noisy, t));
          const pair = toVelocity(schedule, t);
          const told = mix(pair, noisy, outputs.sample as F32Array).data;
          const truth = velocity(x0.data, noise, level);
          const share = 1 / (draws * truth.length);
          // The loss is the mean of (v̂ − v)²; v̂ depends on the prediction through the pair.
          const cotangent = truth.map((v, k) => 2 * share * pair.cp * (told[k] - v));
          for (let k = 0; k < truth.length; k++) loss += share * (told[k] - truth[k]) ** 2;
          await sweep.back(tape, { sample: { ...x0, data: cotangent } }, bar);
        }
        return { loss, grads: await sweep.finish(clip, bar) };
      },
    };
  }

  /** Releases its programs and its runner's. */
  async release(): Promise<void> {
    await this.#trainee.release();
    await this.#runner.release();
  }
}
