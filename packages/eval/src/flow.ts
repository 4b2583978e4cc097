/** Consistency over time: warp error against exact flow, and how much moves at all. */

import { AttuneError, type F32Array } from '@attune/engine';

import { fits, type Frames, sameSizes, type Weighting } from './clip.ts';

/** A plane [H, W] at (x, y), bilinear, pixel centres at whole numbers; x and y are inside. */
export function bilinear(plane: Float32Array, W: number, x: number, y: number): number {
  const H = plane.length / W;
  const x0 = Math.min(Math.floor(x), W - 1);
  const y0 = Math.min(Math.floor(y), H - 1);
  const x1 = Math.min(x0 + 1, W - 1);
  const y1 = Math.min(y0 + 1, H - 1);
  const [u, v] = [x - x0, y - y0];
  const top = plane[y0 * W + x0] * (1 - u) + plane[y0 * W + x1] * u;
  const bottom = plane[y1 * W + x0] * (1 - u) + plane[y1 * W + x1] * u;
  return top * (1 - v) + bottom * v;
}

/**
 * Where exact flow speaks of the same surface in frames t and t + 1, [F − 1, H, W] of 0 and 1: on the
 * object where it lands on the object, on the background where the object is in neither frame.
 * Pixels that leave the frame, half-covered ones and what becomes hidden are 0.
 *
 * @param flow [F − 1, 2, H, W] dx, dy in px from frame t to t + 1, zero on the background
 * @param masks [F, H, W] the moving object's opacity
 * @param region only the object's pixels, only the background's, or both
 */
export function flowValidity(
  flow: F32Array,
  masks: Weighting,
  region: 'object' | 'background' | 'both' = 'both',
): Weighting {
  const [pairs, , H, W] = flow.shape;
  const area = H * W;
  const data = new Float32Array(pairs * area);
  for (let t = 0; t < pairs; t++) {
    const next = masks.data.subarray((t + 1) * area, (t + 2) * area);
    for (let i = 0; i < area; i++) {
      const mask = masks.data[t * area + i];
      const x = (i % W) + flow.data[t * 2 * area + i];
      const y = Math.floor(i / W) + flow.data[(t * 2 + 1) * area + i];
      if (x < 0 || y < 0 || x > W - 1 || y > H - 1) continue;
      const lands = bilinear(next, W, x, y);
      const object = region !== 'background' && mask >= 0.99 && lands >= 0.99;
      const background = region !== 'object' && mask <= 0.01 && lands <= 0.01;
      if (object || background) data[t * area + i] = 1;
    }
  }
  return { dtype: 'f32', shape: [pairs, H, W], data };
}

/**
 * Warp error: Σ valid · (frame t + 1 at p + flow(p) − frame t at p)² / Σ valid, averaged over t and
 * channels; squared intensity, of [0, 1]. After Lai et al. 2018 (fast_blind_video_consistency), whose
 * flow is estimated from the input video and whose occlusions are guessed; here both are exact.
 * Resampling alone costs a little where an object turns or grows: read it beside the truth's own.
 */
export function warpError(frames: Frames, flow: F32Array, valid: Weighting): number {
  const [F, C, H, W] = frames.shape;
  if (flow.shape.join() !== [F - 1, 2, H, W].join())
    throw new AttuneError(
      'METRIC_SHAPE',
      `warpError needs flow [F − 1, 2, H, W] for frames [${frames.shape}], not [${flow.shape}].`,
    );
  const area = H * W;
  const errors: number[] = [];
  for (let t = 0; t + 1 < F; t++) {
    let [sum, total] = [0, 0];
    for (let i = 0; i < area; i++) {
      const weight = valid.data[t * area + i];
      if (weight === 0) continue;
      const x = (i % W) + flow.data[t * 2 * area + i];
      const y = Math.floor(i / W) + flow.data[(t * 2 + 1) * area + i];
      for (let c = 0; c < C; c++) {
        const at = ((t + 1) * C + c) * area;
        const warped = bilinear(frames.data.subarray(at, at + area), W, x, y);
        sum += weight * (warped - frames.data[(t * C + c) * area + i]) ** 2;
        total += weight;
      }
    }
    if (total > 0) errors.push(sum / total);
  }
  return errors.length ? errors.reduce((a, b) => a + b, 0) / errors.length : Number.NaN;
}

/** Motion energy: the mean squared difference of adjacent frames; squared intensity. */
export function motionEnergy(frames: Frames, weights?: Weighting): number {
  if (weights) fits('motionEnergy', frames, weights);
  const [F, C, H, W] = frames.shape;
  const area = H * W;
  let [sum, total] = [0, 0];
  for (let t = 0; t + 1 < F; t++)
    for (let i = 0; i < area; i++) {
      const weight = weights
        ? Math.max(weights.data[t * area + i], weights.data[(t + 1) * area + i])
        : 1;
      for (let c = 0; c < C; c++) {
        const at = (t * C + c) * area + i;
        sum += weight * (frames.data[at + C * area] - frames.data[at]) ** 2;
        total += weight;
      }
    }
  return total > 0 ? sum / total : Number.NaN;
}

/**
 * Motion energy relative to the truth's: above 1 is flicker, below 1 a still picture. NaN where the
 * truth stands still. Consistency scores (pairwiseCosine) reward still video: publish this beside them.
 */
export function motionRatio(frames: Frames, truth: Frames): number {
  sameSizes('motionRatio', frames, truth);
  const energy = motionEnergy(truth);
  return energy > 1e-9 ? motionEnergy(frames) / energy : Number.NaN;
}

/** How far a ratio lies outside a band, as a factor's logarithm: 0 inside; smaller is better. */
export const outsideBand = (ratio: number, low = 0.8, high = 1.2): number =>
  Math.max(0, Math.log(low / ratio), Math.log(ratio / high));
