/** Long clips: the scene's own frames there and back, with flow that holds at every pair. */

import { type F32Array, Rng } from '@attune/engine';
import { flowValidity, rowsOf, warpError } from '@attune/eval';
import {
  FRAMES,
  momentOf,
  MOTIONS,
  renderClip,
  renderLong,
  sampleScene,
  SIDE,
} from '@attune/pocket';
import { describe, expect, test } from 'vitest';

const array = (data: Float32Array, ...shape: readonly number[]): F32Array => ({
  dtype: 'f32',
  shape,
  data,
});

const LONG = 31;

describe('clips of any length', () => {
  test('moments go to the last frame and back by single steps', () => {
    const moments = Array.from({ length: LONG }, (_, f) => momentOf(f));
    expect(moments.slice(0, 16)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 6, 5, 4, 3, 2, 1, 0, 1]);
    moments.slice(1).forEach((moment, f) => expect(Math.abs(moment - moments[f])).toBe(1));
  });

  test('the beginning is the scene’s own clip', () => {
    const scene = sampleScene(Rng.of(5));
    expect(renderLong(scene, FRAMES)).toEqual(renderClip(scene));
    expect(renderLong(scene, 1).flow).toHaveLength(0);
  });

  test.each(MOTIONS)('%s: the flow fits every pair of frames, backwards as well', (motion) => {
    const plain = { hat: undefined, texture: undefined, style: undefined, global: undefined };
    const scene = sampleScene(Rng.of(7), { ...plain, motion });
    const clip = renderLong(scene, LONG);
    const frames = array(clip.frames, LONG, 3, SIDE, SIDE);
    const flow = array(clip.flow, LONG - 1, 2, SIDE, SIDE);
    const valid = flowValidity(flow, array(clip.masks, LONG, SIDE, SIDE));
    const still = { ...flow, data: new Float32Array(flow.data.length) };
    for (let f = 0; f + 1 < LONG; f++) {
      const pair = rowsOf(frames, f, f + 2);
      const [sees, own] = [rowsOf(valid, f, f + 1), rowsOf(flow, f, f + 1)];
      const error = warpError(pair, own, sees);
      expect(error).toBeLessThan(0.004);
      if (motion === 'left' || motion === 'right')
        expect(warpError(pair, rowsOf(still, f, f + 1), sees)).toBeGreaterThan(2 * error);
    }
  });
});
