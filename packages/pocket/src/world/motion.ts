/** Where the object is in every frame, and the exact flow that follows from it. */

import { type MotionName } from './catalogue.ts';
import { AREA, SIDE } from './paint.ts';
import { type Scene } from './scene.ts';

/** Frames of a clip. */
export const FRAMES = 8;

/** Where the object's box stands in one frame. */
export interface Pose {
  /** Centre, px; pixel (0, 0) covers [0, 1) × [0, 1). */
  readonly x: number;
  readonly y: number;
  /** Side of the box, px. */
  readonly size: number;
  /** Clockwise turn, radians. */
  readonly angle: number;
}

/** What each motion makes of the resting pose at t in [0, 1], with a strength in [0, 1]. */
const MOVES: {
  readonly [name in MotionName]: (
    rest: Pose,
    t: number,
    strength: number,
    backwards: boolean,
  ) => Partial<Pose>;
} = {
  left: ({ x }, t, strength) => ({ x: x - (16 + 10 * strength) * (t - 0.5) }),
  right: ({ x }, t, strength) => ({ x: x + (16 + 10 * strength) * (t - 0.5) }),
  bounce: ({ y }, t, strength) => ({
    y: y + 4 - (9 + 5 * strength) * Math.abs(Math.sin(1.5 * Math.PI * t)),
  }),
  grow: ({ size }, t, strength) => ({ size: size * (1.5 + 0.4 * strength) ** (t - 0.85) }),
  shrink: ({ size }, t, strength) => ({ size: size * (1.5 + 0.4 * strength) ** (0.15 - t) }),
  spin: (_, t, strength, backwards) => ({
    angle: ((backwards ? -t : t) * Math.PI * (160 + 100 * strength)) / 180,
  }),
  still: () => ({}),
};

/** The pose in frame f of FRAMES. */
export function poseAt({ motion, amount, x, y, size }: Scene, f: number): Pose {
  const rest: Pose = { x, y, size, angle: 0 };
  return { ...rest, ...MOVES[motion](rest, f / (FRAMES - 1), Math.abs(amount), amount < 0) };
}

/**
 * Forward flow, [2, SIDE, SIDE] (dx, then dy, px): where the content of each pixel of the object is in
 * the next frame. Zero on the background, which never moves.
 *
 * @param mask [SIDE, SIDE] the object's opacity in the first of the two frames
 */
export function writeFlow(flow: Float32Array, mask: Float32Array, from: Pose, to: Pose): void {
  const zoom = to.size / from.size;
  const cos = zoom * Math.cos(to.angle - from.angle);
  const sin = zoom * Math.sin(to.angle - from.angle);
  for (let i = 0; i < AREA; i++) {
    if (mask[i] < 0.5) continue;
    const px = (i % SIDE) + 0.5;
    const py = Math.floor(i / SIDE) + 0.5;
    const dx = px - from.x;
    const dy = py - from.y;
    flow[i] = to.x + cos * dx - sin * dy - px;
    flow[i + AREA] = to.y + sin * dx + cos * dy - py;
  }
}
