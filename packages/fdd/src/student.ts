/** The student: a stack whose trainable adapter learns through k steps of generation. */

import {
  compile,
  ddim,
  type Dims,
  kBin,
  type ModelRunner,
  type NoiseSchedule,
  type Params,
  standingFeeds,
  traceModel,
  trainableInputs,
} from '@attune/core';
import {
  AttuneError,
  type F32Array,
  f32,
  input,
  type NDArray,
  Program,
  type Rng,
  type Shape,
  type Sweep,
} from '@attune/engine';

import type { DistillConfig } from './config.ts';
import { roll, type Rolled, type RolloutStep, type SweptBack, sweepBack } from './rollout.ts';
import { type DataBatch, look, promptIds, promptsOf, type View } from './view.ts';

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

interface Compiled {
  readonly program: Program;
  readonly sweep: Sweep;
  /** Strengths and live parameters as the model has them. */
  readonly standing: Readonly<Record<string, NDArray>>;
}

/** Whether something that trains acts in the text encoder. */
function learnsToRead({ model, runtime }: ModelRunner, dims: Dims): boolean {
  if (!model.nets.text_encoder) return false;
  const reader = compile(model, { net: 'text_encoder', dims }, { runtime });
  return trainableInputs(model, reader).length > 0;
}

export class Student {
  readonly schedule: NoiseSchedule;
  readonly names: readonly string[];
  readonly #runner: ModelRunner;
  /** What is fed as arrays, and the prompts that the generation itself encodes: all, or none. */
  readonly #view: View;
  readonly #prompts: View;
  readonly #dims: Dims;
  readonly #config: DistillConfig['rollout'];
  readonly #compiled = new Map<string, Compiled>();
  readonly #shapes = new Map<string, Shape>();

  constructor(runner: ModelRunner, view: View, dims: Dims, config: DistillConfig['rollout']) {
    const { schedule } = runner.model;
    if (!schedule)
      throw new AttuneError('NO_SCHEDULE', 'The student has no scheduler_config.json.');
    if (config.steps > schedule.length)
      throw new AttuneError(
        'BAD_CONFIG',
        `rollout.steps is ${config.steps}, but the schedule has only ${schedule.length} times.`,
      );
    this.schedule = schedule;
    this.#runner = runner;
    this.#dims = dims;
    this.#config = config;
    const prompts = promptsOf(view);
    this.#prompts = learnsToRead(runner, dims) ? prompts : {};
    this.#view = Object.fromEntries(
      Object.entries(view).filter(([name]) => !(name in this.#prompts)),
    );
    const probe = this.#traced({});
    this.names = trainableInputs(runner.model, probe);
    if (this.names.length === 0)
      throw new AttuneError(
        'NOTHING_TRAINS',
        'Nothing in the student trains: mark an adapter of its stack with train: true.',
      );
    for (const name of this.names) this.#shapes.set(name, probe.inputs.get(name)!.shape);
  }

  shapeOf(name: string): Shape {
    return this.#shapes.get(name)!;
  }

  /** First values of what trains, copied. */
  initial(): Record<string, Float32Array> {
    const { weights } = this.#runner.model;
    return Object.fromEntries(
      this.names.map((name) => [
        name,
        Float32Array.from(weights.entry(name).load().data as Float32Array),
      ]),
    );
  }

  /** One generation from noise for a batch, and the way back. */
  async generate(
    params: Params,
    batch: DataBatch,
    noise: F32Array,
    rng: Rng,
  ): Promise<{
    rolled: Rolled;
    back: (cotangent: F32Array) => Promise<SweptBack>;
    times: number[];
  }> {
    const view = {
      ...(await look(this.#runner, this.#view, batch)),
      ...promptIds(this.#runner.model, this.#prompts, batch),
    };
    const { sweep, standing } = this.#program(view);
    const own = Object.fromEntries(
      this.names.map((name) => [name, f32(params[name], this.shapeOf(name))]),
    );
    const feeds = { ...standing, ...view, ...own };
    const times = drawTimes(this.#config, this.schedule, rng.fork('times'));
    const steps: RolloutStep[] = times.map((t, j) => ({
      timestep: f32([t], [1]),
      pairs: ddim(this.schedule, t, times[j + 1] ?? null),
    }));
    const rolled = await roll(sweep, feeds, noise, steps);
    const back = (cotangent: F32Array) => sweepBack(sweep, rolled, cotangent, this.#config.grad);
    return { rolled, back, times };
  }

  #program(view: Readonly<Record<string, NDArray>>): Compiled {
    const shapes = Object.fromEntries(Object.entries(view).map(([key, { shape }]) => [key, shape]));
    const key = JSON.stringify(shapes);
    let compiled = this.#compiled.get(key);
    if (!compiled) {
      const program = this.#traced(shapes);
      const { remat, steps, memory } = this.#config;
      const budget = { steps, bytes: memory * 2 ** 30 };
      const sweep = program.sweep([...this.names, 'sample'], remat === 'auto' ? budget : remat);
      compiled = { program, sweep, standing: standingFeeds(this.#runner.model, program) };
      this.#compiled.set(key, compiled);
    }
    return compiled;
  }

  /** One step of the generation; the text encoder belongs to it where it learns. */
  #traced(shapes: Readonly<Record<string, Shape>>): Program {
    const { model, runtime } = this.#runner;
    const { traced } = traceModel(model, { dims: this.#dims, shapes }, (run) => {
      const states = Object.entries(this.#prompts).map(([name, field]) => {
        const { B, L = 1 } = this.#dims;
        const ids = input(field, shapes[field] ?? [B, L], { dtype: 'i64', rate: 'clip' });
        return [name, run('text_encoder', { input_ids: ids }).last_hidden_state] as const;
      });
      return run('unet', Object.fromEntries(states));
    });
    return new Program(traced, { runtime, weights: model.weights });
  }

  async release(): Promise<void> {
    for (const { program } of this.#compiled.values()) await program.release();
  }
}
