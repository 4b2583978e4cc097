/** Frame by frame against the truth: fidelity and sharpness. */

import { eachValue, fits, type Frames, sameSizes, type Weighting } from './clip.ts';

/**
 * Mean squared error over all frames and channels, pixels weighted. NaN where the weights are all zero.
 */
export function meanSquaredError(a: Frames, b: Frames, weights?: Weighting): number {
  sameSizes('meanSquaredError', a, b);
  if (weights) fits('meanSquaredError', a, weights);
  let [sum, total] = [0, 0];
  eachValue(a, (at, pixel) => {
    const weight = weights ? weights.data[pixel] : 1;
    sum += weight * (a.data[at] - b.data[at]) ** 2;
    total += weight;
  });
  return total > 0 ? sum / total : Number.NaN;
}

/**
 * Peak signal-to-noise ratio of values in [0, 1], dB, of the error pooled over the clip: whole, inside a
 * mask (`weights` = mask) or outside (`weights` = outside(mask)). Equal pictures give `most`; no
 * pixel of weight gives NaN. Blur raises it: read it beside `sharpness`.
 */
export function psnr(a: Frames, b: Frames, weights?: Weighting, most = 100): number {
  return Math.min(most, -10 * Math.log10(meanSquaredError(a, b, weights)));
}

/**
 * Gradient energy: the mean squared difference of horizontal and of vertical neighbours, both of
 * them in the same frame, weighted by the smaller of the two weights. Units: squared intensity.
 */
export function gradientEnergy(frames: Frames, weights?: Weighting): number {
  if (weights) fits('gradientEnergy', frames, weights);
  const [, , H, W] = frames.shape;
  const { data } = frames;
  let [sum, total] = [0, 0];
  const add = (at: number, pixel: number, step: number): void => {
    const weight = weights ? Math.min(weights.data[pixel], weights.data[pixel + step]) : 1;
    sum += weight * (data[at + step] - data[at]) ** 2;
    total += weight;
  };
  eachValue(frames, (at, pixel) => {
    if (pixel % W < W - 1) add(at, pixel, 1);
    if (Math.floor(pixel / W) % H < H - 1) add(at, pixel, W);
  });
  return total > 0 ? sum / total : Number.NaN;
}

/**
 * Gradient energy relative to the truth's, at most 1: softer pictures score less, noise wins nothing.
 * NaN where the truth is flat.
 */
export function sharpness(frames: Frames, truth: Frames, weights?: Weighting): number {
  sameSizes('sharpness', frames, truth);
  const energy = gradientEnergy(truth, weights);
  return energy > 0 ? Math.min(1, gradientEnergy(frames, weights) / energy) : Number.NaN;
}
