/** Which way an object moves, from where its mask is: the class of a motion without a trained net. */

import { AttuneError } from '@attune/engine';

import type { Frames, Weighting } from './clip.ts';
import { bilinear } from './flow.ts';

/** The motions that are told apart. */
export type MotionClass = 'left' | 'right' | 'bounce' | 'grow' | 'shrink' | 'spin' | 'still';

/** Where an object is in every frame. */
export interface Track {
  /** Centroid, px; pixel centres at whole numbers. */
  readonly x: readonly number[];
  readonly y: readonly number[];
  /** Square root of the area, px. */
  readonly scale: readonly number[];
  /** Mean absolute difference of each frame from the first, both moved to a common place and scale, inside the object. */
  readonly turn: readonly number[];
}

/** Smallest evidence for each motion, over the whole clip. */
export interface MotionThresholds {
  /** Horizontal way, px. */
  readonly slide: number;
  /** Factor of the scale. */
  readonly zoom: number;
  /** Vertical range, px. */
  readonly bounce: number;
  /** Largest `turn`, intensity. */
  readonly turn: number;
}

/** For 64 px clips of 8 frames whose objects are 36 to 44 px wide. */
export const pocketThresholds: MotionThresholds = { slide: 7, zoom: 1.22, bounce: 5, turn: 0.06 };

/** Samples along each side of the registered patch, which spans ±`reach` scales. */
const GRID = 24;
const REACH = 0.5;

/** The track of an object from its masks [F, H, W]. Frames without any of it repeat the last place. */
export function trackOf(frames: Frames, masks: Weighting): Track {
  const [F, C, H, W] = frames.shape;
  const area = H * W;
  const track = {
    x: [] as number[],
    y: [] as number[],
    scale: [] as number[],
    turn: [] as number[],
  };
  let first: Patch | undefined;
  for (let f = 0; f < F; f++) {
    const mask = masks.data.subarray(f * area, (f + 1) * area);
    let [mass, sx, sy] = [0, 0, 0];
    for (let i = 0; i < area; i++) {
      mass += mask[i];
      sx += mask[i] * (i % W);
      sy += mask[i] * Math.floor(i / W);
    }
    const seen = mass >= 1;
    const place = {
      x: seen ? sx / mass : (track.x.at(-1) ?? (W - 1) / 2),
      y: seen ? sy / mass : (track.y.at(-1) ?? (H - 1) / 2),
      scale: seen ? Math.sqrt(mass) : (track.scale.at(-1) ?? 1),
    };
    const planes = frames.data.subarray(f * C * area, (f + 1) * C * area);
    const patch = patchAt(planes, mask, W, place);
    first ??= patch;
    track.x.push(place.x);
    track.y.push(place.y);
    track.scale.push(place.scale);
    track.turn.push(patchDistance(patch, first));
  }
  return track;
}

interface Patch {
  /** [C, GRID, GRID] */
  readonly colours: Float32Array;
  /** [GRID, GRID] opacity; 0 outside of the frame */
  readonly mask: Float32Array;
}

/** The object's surroundings, moved and scaled to a standard place. */
function patchAt(
  planes: Float32Array,
  mask: Float32Array,
  W: number,
  { x, y, scale }: { x: number; y: number; scale: number },
): Patch {
  const area = mask.length;
  const H = area / W;
  const channels = planes.length / area;
  const size = GRID * GRID;
  const patch = { colours: new Float32Array(channels * size), mask: new Float32Array(size) };
  for (let k = 0; k < size; k++) {
    const u = x + ((k % GRID) / (GRID - 1) - 0.5) * 2 * REACH * scale;
    const v = y + (Math.floor(k / GRID) / (GRID - 1) - 0.5) * 2 * REACH * scale;
    if (u < 0 || v < 0 || u > W - 1 || v > H - 1) continue;
    patch.mask[k] = bilinear(mask, W, u, v);
    for (let c = 0; c < channels; c++)
      patch.colours[c * size + k] = bilinear(planes.subarray(c * area, (c + 1) * area), W, u, v);
  }
  return patch;
}

/** Mean absolute difference of colours where both patches show the object. */
function patchDistance(a: Patch, b: Patch): number {
  const size = a.mask.length;
  let [sum, total] = [0, 0];
  for (let i = 0; i < a.colours.length; i++) {
    const weight = a.mask[i % size] * b.mask[i % size];
    sum += weight * Math.abs(a.colours[i] - b.colours[i]);
    total += weight;
  }
  return total > 0 ? sum / total : 0;
}

/**
 * The motion that a track shows. A slide is looked for first, because an object that leaves the frame
 * also shrinks; between a spin and a bounce the one with more of its evidence wins.
 */
export function motionClass(
  { x, y, scale, turn }: Track,
  limits: MotionThresholds = pocketThresholds,
): MotionClass {
  if (x.length < 2) throw new AttuneError('METRIC_SHAPE', 'motionClass needs two frames or more.');
  const way = x[x.length - 1] - x[0];
  const zoom = Math.log(scale[scale.length - 1] / scale[0]);
  if (Math.abs(way) >= limits.slide) return way < 0 ? 'left' : 'right';
  if (Math.abs(zoom) >= Math.log(limits.zoom)) return zoom > 0 ? 'grow' : 'shrink';
  const spin = Math.max(...turn) / limits.turn;
  const bounce = (Math.max(...y) - Math.min(...y)) / limits.bounce;
  if (Math.max(spin, bounce) < 1) return 'still';
  return spin > bounce ? 'spin' : 'bounce';
}

/** The median over time of every value, [C, H, W]: a still background where the object keeps moving. */
export function medianFrame({ data, shape: [F, ...rest] }: Frames): Float32Array {
  const size = rest.reduce((a, b) => a * b, 1);
  const column = new Float32Array(F);
  return Float32Array.from({ length: size }, (_, i) => {
    for (let f = 0; f < F; f++) column[f] = data[f * size + i];
    column.sort();
    return (column[(F - 1) >> 1] + column[F >> 1]) / 2;
  });
}

/**
 * The still background of a clip whose masks are known, [C, H, W]: the mean over the frames in which
 * the object is elsewhere, NaN where it never is.
 */
export function backgroundOf(
  { data, shape: [F, C, H, W] }: Frames,
  masks: Weighting,
): Float32Array {
  const area = H * W;
  return Float32Array.from({ length: C * area }, (_, i) => {
    let [sum, total] = [0, 0];
    for (let f = 0; f < F; f++) {
      if (masks.data[f * area + (i % area)] > 0.01) continue;
      sum += data[f * C * area + i];
      total++;
    }
    return sum / total;
  });
}

/**
 * Masks [F, H, W] of 0 and 1 for a clip that has none: where some colour differs from a still
 * background [C, H, W] by more than `tolerance` (or the background is unknown there), and so do most
 * of the pixel's neighbours.
 */
export function differenceMasks(
  frames: Frames,
  background: Float32Array,
  tolerance = 0.12,
): Weighting {
  const [F, C, H, W] = frames.shape;
  const area = H * W;
  const raw = new Float32Array(F * area);
  for (let f = 0; f < F; f++)
    for (let c = 0; c < C; c++)
      for (let i = 0; i < area; i++) {
        const at = c * area + i;
        if (!(Math.abs(frames.data[f * C * area + at] - background[at]) <= tolerance))
          raw[f * area + i] = 1;
      }
  const data = raw.map((_, i) => {
    const [px, py] = [i % W, Math.floor(i / W) % H];
    let [on, all] = [0, 0];
    for (let dy = -1; dy <= 1; dy++)
      for (let dx = -1; dx <= 1; dx++) {
        if (px + dx < 0 || px + dx >= W || py + dy < 0 || py + dy >= H) continue;
        on += raw[i + dy * W + dx];
        all++;
      }
    return on * 2 > all ? 1 : 0;
  });
  return { dtype: 'f32', shape: [F, H, W], data };
}
