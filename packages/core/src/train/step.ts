/** One compiled training step: loss, figures and gradients of a micro-batch in one fused program. */

import {
  AttuneError,
  constant,
  type F32Array,
  f32,
  grad,
  type NDArray,
  Program,
  type Rng,
  type Runtime,
  type Tensor,
} from '@attune/engine';

import { trainability, traceModel } from '../adapters/compose.ts';
import { standingFeeds, strengthsAt } from '../adapters/feeds.ts';
import type { Model } from '../models/model.ts';
import type { Dims } from '../models/net.ts';
import type { Params } from './learner.ts';
import type { Objective } from './objective.ts';

export interface Gradients {
  readonly loss: number;
  readonly metrics: Readonly<Record<string, number>>;
  readonly grads: Record<string, Float32Array>;
}

export class TrainStep {
  readonly #program: Program;
  readonly #standing: Readonly<Record<string, NDArray>>;
  readonly #metrics: readonly string[];
  readonly #objective: Objective;
  /** What trains, with shapes. */
  readonly shapes: ReadonlyMap<string, readonly number[]>;

  constructor(model: Model, objective: Objective, dims: Dims, runtime: Runtime) {
    let metrics: readonly string[] = [];
    const { traced, trace } = traceModel(model, { dims }, (run) => {
      const { loss, metrics: figures = {} } = objective.trace(run, dims);
      metrics = Object.keys(figures);
      return { loss, ...prefixed('metric.', figures) };
    });
    const trains = trainability(model);
    const params = [...trace.params.values()].filter(({ name }) => trains(name));
    const one = constant(f32([1], []));
    const found = grad(
      [traced.outputs.loss],
      [one],
      params.map(({ tensor }) => tensor),
    );
    const reached = params.flatMap(({ name, shape }, i) => {
      const g = found[i];
      return g ? [{ name, shape, g }] : [];
    });
    this.shapes = new Map(reached.map(({ name, shape }) => [name, shape]));
    this.#metrics = metrics;
    this.#objective = objective;
    const outputs: Record<string, Tensor> = { ...traced.outputs };
    for (const { name, g } of reached) outputs[`grad.${name}`] = g;
    this.#program = new Program(
      { outputs, marks: [] },
      { runtime, weights: model.weights, split: false },
    );
    this.#standing = standingFeeds(model, this.#program);
    const [moving] = Object.keys(strengthsAt(model, this.#program, 0));
    if (moving)
      throw new AttuneError(
        'BAD_STRENGTH',
        `The strength ${moving.slice('gate.'.length)} changes over the sampling steps, and a training step has a time for every clip: train with a number, and say \`during\` or \`steps\` in the stack that uses the result.`,
      );
  }

  /** The micro-batch's loss and gradients: a pure function of the parameters, the batch and its ids. */
  async gradients(
    params: Params,
    batch: Readonly<Record<string, NDArray>>,
    ids: readonly number[],
    rng: Rng,
  ): Promise<Gradients> {
    const shapeOf = (name: string) => this.#program.inputs.get(name)!.shape;
    const drawn = this.#objective.draw?.(ids, rng, shapeOf) ?? {};
    const feeds: Record<string, NDArray> = { ...this.#standing, ...batch, ...drawn };
    for (const [name, shape] of this.shapes)
      feeds[name] = { dtype: 'f32', shape, data: params[name] };
    const out = await this.#program.run(feeds);
    return {
      loss: Number(out.loss.data[0]),
      metrics: Object.fromEntries(
        this.#metrics.map((name) => [name, Number(out[`metric.${name}`].data[0])]),
      ),
      grads: Object.fromEntries(
        [...this.shapes.keys()].map((name) => [name, (out[`grad.${name}`] as F32Array).data]),
      ),
    };
  }

  /** First values of everything that trains, copied. */
  initial(): Record<string, Float32Array> {
    return Object.fromEntries(
      [...this.shapes.keys()].map((name) => [
        name,
        Float32Array.from((this.#standing[name] as F32Array).data),
      ]),
    );
  }

  release(): Promise<void> {
    return this.#program.release();
  }
}

const prefixed = (prefix: string, values: Readonly<Record<string, Tensor>>) =>
  Object.fromEntries(Object.entries(values).map(([name, t]) => [prefix + name, t]));
