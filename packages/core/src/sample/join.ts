/** How overlapping windows become one clip: corrections of a window's prediction by what was made of its frames before. */

import { type F32Array } from '@attune/engine';

import { mix, toClean } from '../schedule/forms.ts';
import type { NoiseSchedule } from '../schedule/noise.ts';
import type { Adjust } from './sample.ts';

/**
 * `correct`: shared frames stay as the earlier window made them, and its correction leads the others
 * (`continuing`). `fuse`: they go over from the earlier window to the later, step by step (`fusing`).
 * `both`: the fusion, and the mean of its change for the other frames.
 */
export const joins = ['correct', 'fuse', 'both'] as const;
/** A way of joining windows. */
export type Join = (typeof joins)[number];

/** Share of the steps in which frames that are not shared are corrected, too. */
const SHARE = 0.5;

/**
 * Long video sampling correction (Cheng et al., InsV2V, arXiv 2311.00213): in the first
 * `share` of the steps the first frames are predicted as the window before left them, and the other
 * frames get the mean of that change. Exact at zero SNR where the prediction is v or x₀.
 *
 * @param before clean latents of the frames seen before, [R, C, H, W]
 */
export function continuing(schedule: NoiseSchedule, before: F32Array, share = SHARE): Adjust {
  const own = Array.from({ length: before.shape[0] }, () => 0);
  return (prediction, at) =>
    at.done < share * at.of
      ? led(schedule, prediction, at, { before, own, lead: true })
      : prediction;
}

/**
 * Weighted fusion (as MultiDiffusion, Bar-Tal et al., arXiv 2302.08113, joins views, in one direction):
 * at every step the clean estimate of a shared frame is a blend of what the earlier window estimated
 * at that step and of this window's own. Frames that are not shared get the mean of that change in
 * the first `share` of the steps.
 *
 * @param before clean estimates of the earlier window for the shared frames, [R, C, H, W] for each step
 * @param own this window's part of each shared frame, [R] in [0, 1]
 */
export function fusing(
  schedule: NoiseSchedule,
  before: readonly F32Array[],
  own: readonly number[],
  share = 0,
): Adjust {
  return (prediction, at) => {
    const lead = at.done < share * at.of;
    return led(schedule, prediction, at, { before: before[at.done], own, lead });
  };
}

/**
 * This window's part of `seen` shared frames: none of those that are out already, and rising over the
 * last `overlap` of them, as the triangle of a window rises where that of the one before falls.
 */
export const fusionWeights = (seen: number, overlap: number): number[] =>
  Array.from({ length: seen }, (_, i) => Math.max(0, i - (seen - overlap) + 1) / (overlap + 1));

/** The adjustment of a window, and a record of its clean estimates [F, C, H, W], one a step, in `trail`. */
export function recorded(
  schedule: NoiseSchedule,
  adjust: Adjust | undefined,
  trail: F32Array[],
): Adjust {
  return (prediction, at) => {
    const adjusted = adjust?.(prediction, at) ?? prediction;
    trail.push(mix(toClean(schedule, at.t), at.x, adjusted));
    return adjusted;
  };
}

/** The way from window to window. */
export interface Joint {
  /** Clean latents of the frames that the window before made, [R, C, H, W]. */
  readonly known: F32Array;
  /** Its clean estimates of them, one for each step. */
  readonly trail: readonly F32Array[];
  /** Frames that windows share; `known` may hold more in the last one. */
  readonly overlap: number;
}

/** How a window is joined to the one before. */
export function joining(
  join: Join,
  schedule: NoiseSchedule,
  { known, trail, overlap }: Joint,
): Adjust {
  if (join === 'correct') return continuing(schedule, known);
  const own = fusionWeights(known.shape[0], overlap);
  return fusing(schedule, trail, own, join === 'both' ? SHARE : 0);
}

interface Leading {
  readonly before: F32Array;
  readonly own: readonly number[];
  /** The other frames get the mean change, weighted by the earlier window's part. */
  readonly lead: boolean;
}

/** The prediction whose clean estimate of the first frames is own · itself + (1 − own) · `before`. */
function led(
  schedule: NoiseSchedule,
  prediction: F32Array,
  { x, t }: { readonly x: F32Array; readonly t: number },
  { before: { data: known, shape }, own, lead }: Leading,
): F32Array {
  const frame = known.length / shape[0];
  const { cx, cp } = toClean(schedule, t);
  const data = prediction.data.slice();
  const drift = new Float64Array(frame);
  const theirs = own.reduce((sum, part) => sum + 1 - part, 0);
  for (let i = 0; i < known.length; i++) {
    const part = 1 - own[Math.floor(i / frame)];
    const wanted = (known[i] - cx * x.data[i]) / cp;
    const given = prediction.data[i];
    data[i] = part === 1 ? wanted : given + part * (wanted - given);
    drift[i % frame] += (data[i] - given) / theirs;
  }
  if (lead) for (let i = known.length; i < data.length; i++) data[i] += drift[i % frame];
  return { ...prediction, data };
}
