/** DoRA (Liu et al. 2024, arXiv 2402.09353, eq. 5): the changed weight, brought to a magnitude of its own. */

import {
  add,
  div,
  mul,
  reshape,
  type Shape,
  sqrt,
  square,
  sub,
  sum,
  type Tensor,
} from '@attune/engine';

/** The leaves that hold a magnitude, and the axis of the weight that each has one number for. */
export const magnitudes: Readonly<Record<string, (shape: Shape) => 0 | 1>> = {
  // LyCORIS: [out, 1, …], or, of older files, one for each column of the input: [1, in, …].
  dora_scale: ([first, second = 1]) => (first === 1 && second > 1 ? 1 : 0),
  // PEFT: [out], or [1, out, 1, 1] for a convolution.
  lora_magnitude_vector: () => 0,
};

/** The magnitude that a module has, if any. */
export const magnitudeOf = (has: (leaf: string) => boolean): string | undefined =>
  Object.keys(magnitudes).find(has);

/**
 * W′ − W with W′ = m · (W + Δ) / ‖W + Δ‖, the norm over all axes but one, so that a strength goes straight
 * from W to W′.
 */
export function reweighted(weight: Tensor, delta: Tensor, magnitude: Tensor, axis: 0 | 1): Tensor {
  const whole = add(weight, delta);
  const axes = weight.shape.flatMap((_, i) => (i === axis ? [] : [i]));
  const norm = sqrt(sum(square(whole), axes, { keep: true }));
  return sub(mul(whole, div(reshape(magnitude, norm.shape), norm)), weight);
}
