/** Training objectives: what a step's graph computes from a model's nets. */

import type { NDArray, Rng, Shape, Tensor } from '@attune/engine';

import type { NetRunner } from '../adapters/compose.ts';
import type { Dims } from '../models/net.ts';

/** What a training minimises. */
export interface Objective {
  /** The loss (a scalar) and figures for the log, traced into one graph with its gradient. */
  trace(run: NetRunner, dims: Dims): { loss: Tensor; metrics?: Readonly<Record<string, Tensor>> };
  /**
   * Random inputs of a micro-batch (noise, timesteps), each row from the stream of its sample id.
   * `shapeOf` gives the shape of an input by name.
   */
  draw?(
    ids: readonly number[],
    rng: Rng,
    shapeOf: (name: string) => Shape,
  ): Readonly<Record<string, NDArray>>;
}

/** Standard normals of a shape whose rows belong to samples: row k comes from the stream of `ids[k]`. */
export function rowNormals(ids: readonly number[], rng: Rng, shape: Shape): NDArray {
  const row = shape.slice(1);
  const size = row.reduce((a, b) => a * b, 1) * (shape[0] / ids.length);
  const data = new Float32Array(size * ids.length);
  ids.forEach((id, k) => data.set(rng.fork(id).normals([size]).data, k * size));
  return { dtype: 'f32', shape, data };
}
