/** A model in which something trains, ready to be run and swept back: what a student and a fake score share. */

import {
  compile,
  type Dims,
  type ModelRunner,
  type NoiseSchedule,
  type Params,
  standingFeeds,
  strengthsAt,
  traceModel,
  trainableInputs,
} from '@attune/core';
import {
  AttuneError,
  f32,
  type Feeds,
  input,
  type NDArray,
  Program,
  type Shape,
  type Sweep,
} from '@attune/engine';

import { type DataBatch, look, promptIds, promptsOf, type View } from './view.ts';

interface Compiled {
  readonly program: Program;
  readonly sweep: Sweep;
  /** Strengths and live parameters as the model has them. */
  readonly standing: Feeds;
}

/** One call of the net under given parameters and data: its sweep, and what to feed it beside the sample. */
export interface Ready {
  readonly sweep: Sweep;
  readonly feeds: Feeds;
  /** What a call at time t is fed beside the sample: `timestep` [1], strengths that change. */
  readonly at: (t: number) => Feeds;
}

/** What the backward pass computes again, or a budget to choose it by. */
type Remat = Parameters<Program['sweep']>[1];

export interface TraineeOptions {
  /** Called in errors: "The student". */
  readonly called: string;
  readonly view: View;
  readonly dims: Dims;
  readonly remat: Remat;
}

/** Whether something that trains acts in the text encoder. */
function learnsToRead({ model, runtime }: ModelRunner, dims: Dims): boolean {
  if (!model.nets.text_encoder) return false;
  const reader = compile(model, { net: 'text_encoder', dims }, { runtime });
  return trainableInputs(model, reader).length > 0;
}

export class Trainee {
  readonly schedule: NoiseSchedule;
  /** Parameters that train. */
  readonly names: readonly string[];
  readonly #runner: ModelRunner;
  /** What is fed as arrays, and the prompts that the program itself encodes: all, or none. */
  readonly #view: View;
  readonly #prompts: View;
  readonly #dims: Dims;
  readonly #remat: Remat;
  readonly #compiled = new Map<string, Compiled>();
  readonly #shapes = new Map<string, Shape>();

  constructor(runner: ModelRunner, { called, view, dims, remat }: TraineeOptions) {
    const { schedule } = runner.model;
    if (!schedule) throw new AttuneError('NO_SCHEDULE', `${called} has no scheduler_config.json.`);
    this.schedule = schedule;
    this.#runner = runner;
    this.#dims = dims;
    this.#remat = remat;
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
        `Nothing in ${called.toLowerCase()} trains: mark an adapter of its stack with train: true.`,
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

  /** Reads a batch; prompts are encoded here where nothing in the encoder trains. */
  async ready(params: Params, batch: DataBatch): Promise<Ready> {
    const view = {
      ...(await look(this.#runner, this.#view, batch)),
      ...promptIds(this.#runner.model, this.#prompts, batch),
    };
    const { program, sweep, standing } = this.#program(view);
    const own = Object.fromEntries(
      this.names.map((name) => [name, f32(params[name], this.shapeOf(name))]),
    );
    return {
      sweep,
      feeds: { ...standing, ...view, ...own },
      at: (t) => ({ ...strengthsAt(this.#runner.model, program, t), timestep: f32([t], [1]) }),
    };
  }

  #program(view: Readonly<Record<string, NDArray>>): Compiled {
    const shapes = Object.fromEntries(Object.entries(view).map(([key, { shape }]) => [key, shape]));
    const key = JSON.stringify(shapes);
    let compiled = this.#compiled.get(key);
    if (!compiled) {
      const program = this.#traced(shapes);
      const sweep = program.sweep([...this.names, 'sample'], this.#remat);
      compiled = { program, sweep, standing: standingFeeds(this.#runner.model, program) };
      this.#compiled.set(key, compiled);
    }
    return compiled;
  }

  /** One call of the UNet; the text encoder belongs to it where it learns. */
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
