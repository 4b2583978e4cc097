/** Initial values of parameters that no file provides. */

import { type F32Array, Rng, sizeOf } from '@attune/engine';

/** Makes a parameter's first value from its own random stream. */
export type Init = (rng: Rng, shape: readonly number[]) => F32Array;

const filled =
  (value: number): Init =>
  (_, shape) => ({ dtype: 'f32', shape, data: new Float32Array(sizeOf(shape)).fill(value) });

/** All zero: for the last layer of an adapter, which then starts as the identity. */
export const zeros: Init = filled(0);
/** All one: for the scale of a norm. */
export const ones: Init = filled(1);

/** Uniform in ±1/√fanIn: PyTorch's default for linear and convolution layers. */
export const uniform =
  (fanIn: number): Init =>
  (rng, shape) => {
    const bound = 1 / Math.sqrt(fanIn);
    const data = Float32Array.from(
      { length: sizeOf(shape) },
      () => (2 * rng.uniform() - 1) * bound,
    );
    return { dtype: 'f32', shape, data };
  };

/** Normal with the given standard deviation. */
export const normal =
  (deviation: number): Init =>
  (rng, shape) => {
    const drawn = rng.normals(shape);
    return { ...drawn, data: drawn.data.map((value) => value * deviation) };
  };
