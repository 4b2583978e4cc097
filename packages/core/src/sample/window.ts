/** Sliding windows over a clip of any length, and the correction that makes them one clip. */

import { badArgument, type F32Array } from '@attune/engine';

import { toClean } from '../schedule/forms.ts';
import type { NoiseSchedule } from '../schedule/noise.ts';
import type { Adjust } from './sample.ts';

export interface Window<T> {
  readonly frames: readonly T[];
  /** Number of its first frame in the clip. */
  readonly start: number;
  /** How many of its first frames were in the window before. */
  readonly seen: number;
}

export interface WindowSize {
  /** Frames that a model sees at once. */
  readonly size: number;
  /** Frames that a window shares with the one before, at least. */
  readonly overlap: number;
}

/**
 * Windows of `size` frames in order, holding two windows' worth at a time. The last one reaches back
 * as far as it must to be full; only a clip shorter than a window gives a shorter one.
 */
export async function* windows<T>(
  frames: Iterable<T> | AsyncIterable<T>,
  { size, overlap }: WindowSize,
): AsyncGenerator<Window<T>> {
  if (!(Number.isInteger(size) && Number.isInteger(overlap) && overlap >= 0 && size > overlap))
    throw badArgument(
      'windows',
      `windows of ${size} frames that share ${overlap}`,
      'give whole numbers, the first larger than the second',
    );
  let window: T[] = [];
  let fresh: T[] = [];
  let start = 0;
  const next = (): Window<T> => {
    const whole = [...window, ...fresh];
    const kept = whole.slice(-size);
    start += whole.length - kept.length;
    const seen = kept.length - fresh.length;
    [window, fresh] = [kept, []];
    return { frames: kept, start, seen };
  };
  for await (const frame of frames) {
    fresh.push(frame);
    if (fresh.length === (window.length === 0 ? size : size - overlap)) yield next();
  }
  if (fresh.length > 0) yield next();
}

/**
 * Long video sampling correction (Cheng et al., InsV2V, arXiv 2311.00213): in the first
 * `share` of the steps the first frames are predicted as the window before left them, and the other
 * frames get the mean of that change. Exact at zero SNR where the prediction is v or x₀.
 *
 * @param before clean latents of the frames seen before, [R, C, H, W]
 */
export function continuing(schedule: NoiseSchedule, before: F32Array, share = 0.5): Adjust {
  const { data: known } = before;
  const frame = known.length / before.shape[0];
  return (prediction, { x, t, done, of }) => {
    if (done >= share * of) return prediction;
    const { cx, cp } = toClean(schedule, t);
    const data = prediction.data.slice();
    const drift = new Float64Array(frame);
    for (let i = 0; i < known.length; i++) {
      data[i] = (known[i] - cx * x.data[i]) / cp;
      drift[i % frame] += (data[i] - prediction.data[i]) / before.shape[0];
    }
    for (let i = known.length; i < data.length; i++) data[i] += drift[i % frame];
    return { ...prediction, data };
  };
}
