/** Runs a tiny model with adapters on it: the same inputs for every stack, drawn by their names. */

import { createHash } from 'node:crypto';

import {
  type Adapter,
  compile,
  compose,
  type Dims,
  materialize,
  type Model,
  standingFeeds,
  strengthsAt,
  traceNet,
} from '@attune/core';
import {
  bytesOf,
  emit,
  f32,
  type F32Array,
  type NDArray,
  OrtRuntime,
  type Program,
  Rng,
  type Runtime,
  type Shape,
  type Tensor,
  zeros,
} from '@attune/engine';
import { relativeError } from '@attune/engine/testing';

import { randomised, tinyDims } from './tiny.ts';

export type Arrays = Readonly<Record<string, NDArray>>;
export type Shapes = Readonly<Record<string, Shape>>;

/** Values for an input that standard normals do not fit (ids, times); undefined leaves it to the kit. */
export type Draw = (name: string, shape: Shape) => NDArray | undefined;

/** The time at which nets are run. */
const TIME = 321;

export class Bench {
  readonly base: Model;
  readonly dims: Dims;
  readonly net: string;
  readonly #draw: Draw;
  readonly #runtime: Runtime = new OrtRuntime({ threads: 1 });

  constructor({
    base,
    dims = tinyDims,
    net = 'unet',
    draw = () => undefined,
  }: {
    base: Model;
    dims?: Dims;
    net?: string;
    draw?: Draw;
  }) {
    this.base = base;
    this.dims = dims;
    this.net = net;
    this.#draw = draw;
  }

  /** The base with fresh adapters. */
  fresh(...adapters: readonly Adapter[]): Model {
    return materialize(compose(this.base, ...adapters), { dims: this.dims, seed: 7 });
  }

  /** The base with adapters that change the result. */
  moved(...adapters: readonly Adapter[]): Model {
    return randomised(this.fresh(...adapters), 11);
  }

  /** The ONNX bytes of the whole net. */
  bytes(model: Model): string {
    const { traced } = traceNet(model, { net: this.net, dims: this.dims });
    const { model: bytes } = emit({
      outputs: Object.values(traced.outputs),
      boundary: new Map(),
      weight: (name) => model.weights.entry(name),
    });
    return createHash('sha256').update(bytes).digest('hex');
  }

  /** The values of a program's inputs: `given`, strengths and live weights, or drawn by name. */
  feeds(model: Model, program: Program, given: Arrays = {}): Record<string, NDArray> {
    const feeds: Record<string, NDArray> = {
      ...standingFeeds(model, program),
      ...strengthsAt(model, program, TIME),
    };
    for (const [name, t] of program.inputs)
      feeds[name] = given[name] ?? feeds[name] ?? this.#value(name, t);
    return feeds;
  }

  #value(name: string, { shape, dtype }: Tensor): NDArray {
    const own = this.#draw(name, shape);
    if (own) return own;
    if (dtype !== 'f32') return zeros(shape, dtype);
    if (name === 'timestep') return f32(new Float32Array(shape[0]).fill(TIME), shape);
    return Rng.of(3).fork(name).normals(shape);
  }

  /** Compiles the net, lets `use` have it, and releases it. */
  async with<T>(
    model: Model,
    use: (program: Program) => Promise<T>,
    shapes: Shapes = {},
  ): Promise<T> {
    const program = compile(
      model,
      { net: this.net, dims: this.dims, shapes },
      { runtime: this.#runtime },
    );
    try {
      return await use(program);
    } finally {
      await program.release();
    }
  }

  /** The net's outputs on drawn inputs. */
  run(model: Model, given: Arrays = {}, shapes: Shapes = {}): Promise<Arrays> {
    return this.with(model, (program) => program.run(this.feeds(model, program, given)), shapes);
  }
}

/** The largest relative difference over all outputs. */
export const distance = (got: Arrays, want: Arrays): number =>
  Math.max(...Object.entries(want).map(([name, array]) => relativeError(got[name], array)));

/** Whether all outputs have the same bits. */
export const sameBits = (got: Arrays, want: Arrays): boolean =>
  Object.entries(want).every(([name, array]) =>
    Buffer.from(bytesOf(got[name])).equals(bytesOf(array)),
  );

/** Rows of an array in another order. */
export function reordered(array: NDArray, order: readonly number[]): F32Array {
  const { shape, data } = array as F32Array;
  const size = data.length / shape[0];
  const out = new Float32Array(data.length);
  order.forEach((from, to) => out.set(data.subarray(from * size, (from + 1) * size), to * size));
  return f32(out, shape);
}
