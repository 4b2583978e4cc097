import { type F32Array, Rng } from '@attune/engine';
import { describe, expect, test } from 'vitest';

import {
  backgroundOf,
  differenceMasks,
  medianFrame,
  motionClass,
  type MotionClass,
  trackOf,
} from '../src/index.ts';

const [F, SIDE] = [8, 64];
const AREA = SIDE * SIDE;

interface Pose {
  readonly x: number;
  readonly y: number;
  readonly size: number;
  readonly angle: number;
}

const rest: Pose = { x: 32, y: 36, size: 36, angle: 0 };
/** Poses at t in [0, 1], as in pocket's world. */
const moves: Readonly<Record<MotionClass, (t: number) => Partial<Pose>>> = {
  left: (t) => ({ x: 41 - 18 * t }),
  right: (t) => ({ x: 23 + 18 * t }),
  bounce: (t) => ({ y: 40 - 10 * Math.abs(Math.sin(1.5 * Math.PI * t)) }),
  grow: (t) => ({ size: 36 * 1.6 ** (t - 0.85) }),
  shrink: (t) => ({ size: 36 * 1.6 ** (0.15 - t) }),
  spin: (t) => ({ angle: 3.5 * t }),
  still: () => ({}),
};

/** A disc with one dark half, on a shaded background. */
function clipOf(move: (t: number) => Partial<Pose>): { frames: F32Array; masks: F32Array } {
  const data = new Float32Array(F * 3 * AREA);
  const masks = new Float32Array(F * AREA);
  for (let f = 0; f < F; f++) {
    const { x, y, size, angle } = { ...rest, ...move(f / (F - 1)) };
    for (let i = 0; i < AREA; i++) {
      const [dx, dy] = [(i % SIDE) - x, Math.floor(i / SIDE) - y];
      const covered = Math.hypot(dx, dy) < size / 2;
      const dark = dx * Math.sin(angle) - dy * Math.cos(angle) > 0;
      if (covered) masks[f * AREA + i] = 1;
      for (let c = 0; c < 3; c++)
        data[(f * 3 + c) * AREA + i] = covered
          ? dark
            ? 0.1
            : 0.9
          : 0.4 + (0.2 * (i % SIDE)) / SIDE;
    }
  }
  return {
    frames: { dtype: 'f32', shape: [F, 3, SIDE, SIDE], data },
    masks: { dtype: 'f32', shape: [F, SIDE, SIDE], data: masks },
  };
}

const names = Object.keys(moves) as MotionClass[];

test('a track is the centroid in px and the square root of the area', () => {
  const { frames, masks } = clipOf(moves.right);
  const { x, y, scale } = trackOf(frames, masks);
  expect(x[0]).toBeCloseTo(23, 1);
  expect(x[7]).toBeCloseTo(41, 1);
  expect(y[3]).toBeCloseTo(36, 1);
  expect(scale[0]).toBeCloseTo(18 * Math.sqrt(Math.PI), 0);
});

describe('the class of a motion', () => {
  test.each(names)('%s, from its masks', (name) => {
    const { frames, masks } = clipOf(moves[name]);
    expect(motionClass(trackOf(frames, masks))).toBe(name);
  });

  test.each(names)('%s, from differences to the true background, under noise', (name) => {
    const { frames, masks } = clipOf(moves[name]);
    const rng = Rng.of(3);
    const noisy = { ...frames, data: frames.data.map((value) => value + 0.03 * rng.normal()) };
    const found = differenceMasks(noisy, backgroundOf(frames, masks));
    expect(motionClass(trackOf(noisy, found))).toBe(name);
  });

  test('needs two frames', () => {
    const one = { x: [0], y: [0], scale: [1], turn: [0] };
    expect(() => motionClass(one)).toThrow('two frames');
  });
});

test('a frame without the object repeats its last place', () => {
  const { frames, masks } = clipOf(moves.left);
  masks.data.fill(0, 3 * AREA, 4 * AREA);
  const { x } = trackOf(frames, masks);
  expect(x[3]).toBe(x[2]);
});

test('the median of a clip is its background where the object is elsewhere most of the time', () => {
  const { frames } = clipOf(moves.still);
  const data = frames.data.slice();
  data.fill(0, 0, 3 * AREA);
  expect(medianFrame({ ...frames, data })).toEqual(frames.data.slice(0, 3 * AREA));
});
