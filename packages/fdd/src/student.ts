/** The student: a stack whose trainable adapter learns through k steps of generation. */

import {
  ddim,
  type Dims,
  kBin,
  type ModelRunner,
  type NoiseSchedule,
  type Params,
} from '@attune/core';
import { AttuneError, type F32Array, type Rng, type Shape } from '@attune/engine';

import type { DistillConfig } from './config.ts';
import { roll, type Rolled, type RolloutStep, type SweptBack, sweepBack } from './rollout.ts';
import { Trainee } from './trainee.ts';
import type { DataBatch, View } from './view.ts';

/** Times of a generation, decreasing. */
export function drawTimes(
  { steps: k, bins, first }: DistillConfig['rollout'],
  schedule: NoiseSchedule,
  rng: Rng,
): number[] {
  const { length } = schedule;
  switch (bins) {
    case 'fixed':
      return schedule.timesteps(k, 'trailing');
    case 'random': {
      const drawn = new Set<number>(first === 'terminal' ? [length - 1] : []);
      while (drawn.size < k) drawn.add(rng.int(length));
      return [...drawn].toSorted((a, b) => b - a);
    }
    default:
      return kBin(rng, k, length, first);
  }
}

/**
 * Generates through k steps and gives gradients through all of them. The constructor throws NO_SCHEDULE,
 * NOTHING_TRAINS, or BAD_CONFIG for more steps than the schedule has times.
 */
export class Student {
  readonly #trainee: Trainee;
  readonly #config: DistillConfig['rollout'];

  constructor(runner: ModelRunner, view: View, dims: Dims, config: DistillConfig['rollout']) {
    const { remat, steps, memory } = config;
    const budget = { steps, bytes: memory * 2 ** 30 };
    this.#trainee = new Trainee(runner, {
      called: 'The student',
      view,
      dims,
      remat: remat === 'auto' ? budget : remat,
    });
    const { length } = this.schedule;
    if (steps > length)
      throw new AttuneError(
        'BAD_CONFIG',
        `rollout.steps is ${steps}, but the schedule has only ${length} times.`,
      );
    this.#config = config;
  }

  /** The noise that it generates with. */
  get schedule(): NoiseSchedule {
    return this.#trainee.schedule;
  }

  /** Parameters that train. */
  get names(): readonly string[] {
    return this.#trainee.names;
  }

  /** The shape of a parameter that trains. */
  shapeOf(name: string): Shape {
    return this.#trainee.shapeOf(name);
  }

  /** First values of what trains, copied. */
  initial(): Record<string, Float32Array> {
    return this.#trainee.initial();
  }

  /** One generation from noise for a batch, and the way back. */
  async generate(
    params: Params,
    batch: DataBatch,
    noise: F32Array,
    rng: Rng,
  ): Promise<{
    rolled: Rolled;
    /** Takes the cotangent of the generated latents x′₀, once. */
    back: (cotangent: F32Array) => Promise<SweptBack>;
    times: number[];
  }> {
    const { sweep, feeds, at } = await this.#trainee.ready(params, batch);
    const times = drawTimes(this.#config, this.schedule, rng.fork('times'));
    const steps: RolloutStep[] = times.map((t, j) => ({
      feeds: at(t),
      pairs: ddim(this.schedule, t, times[j + 1] ?? null),
    }));
    const rolled = await roll(sweep, feeds, noise, steps);
    const back = (cotangent: F32Array) => sweepBack(sweep, rolled, cotangent, this.#config.grad);
    return { rolled, back, times };
  }

  /** Releases its programs. */
  release(): Promise<void> {
    return this.#trainee.release();
  }
}
