/** Sliding windows: every frame once, full windows, and a correction that keeps what was shown. */

import { continuing, ddimPlan, NoiseSchedule, takeStep, type Window, windows } from '@attune/core';
import { type F32Array, Rng } from '@attune/engine';
import { describe, expect, test } from 'vitest';

async function all(count: number, size: number, overlap: number): Promise<Window<number>[]> {
  const found: Window<number>[] = [];
  for await (const window of windows(
    Array.from({ length: count }, (_, i) => i),
    { size, overlap },
  ))
    found.push(window);
  return found;
}

describe('windows', () => {
  test.each([
    [1, 8, 2],
    [7, 8, 2],
    [8, 8, 2],
    [9, 8, 2],
    [14, 8, 2],
    [20, 8, 0],
    [23, 4, 3],
    [5, 1, 0],
  ])('%i frames in windows of %i that share %i', async (count, size, overlap) => {
    const found = await all(count, size, overlap);
    const fresh = found.flatMap(({ frames, seen }) => frames.slice(seen));
    expect(fresh).toEqual(Array.from({ length: count }, (_, i) => i));
    for (const { frames, start } of found) {
      expect(frames[0]).toBe(start);
      expect(frames.length).toBe(Math.min(size, count));
    }
    expect(found.slice(1).every(({ seen }) => seen >= overlap)).toBe(true);
  });

  test('reads no further than the window it yields needs', async () => {
    let read = 0;
    const endless = async function* () {
      for (;;) yield read++;
    };
    for await (const { start } of windows(endless(), { size: 8, overlap: 2 })) {
      expect(read).toBe(start + 8);
      if (start > 1000) break;
    }
  });

  test('none of no frames; sizes that make no sense are refused', async () => {
    expect(await all(0, 8, 2)).toEqual([]);
    await expect(all(3, 2, 2)).rejects.toThrow('windows of 2 frames that share 2');
  });
});

const array = (shape: readonly number[], name: string): F32Array =>
  Rng.of(3).fork(name).normals(shape);

describe('continuing', () => {
  const schedule = NoiseSchedule.of({ prediction_type: 'v_prediction', beta_schedule: 'linear' });

  test('with a share of 1 the frames seen before come out as they were, and the others move along', () => {
    const before = array([2, 1, 2, 2], 'before');
    const adjust = continuing(schedule, before, 1);
    const { steps } = ddimPlan(schedule, 5);
    const prediction = array([3, 1, 2, 2], 'prediction');
    const run = (correct: boolean): F32Array => {
      let x = array([3, 1, 2, 2], 'noise');
      steps.forEach((step, done) => {
        const at = { x, t: step.t, done, of: steps.length };
        ({ x } = takeStep(step, x, correct ? adjust(prediction, at) : prediction));
      });
      return x;
    };
    const corrected = run(true);
    before.data.forEach((value, i) => expect(corrected.data[i]).toBeCloseTo(value, 4));
    expect(corrected.data.slice(8)).not.toEqual(run(false).data.slice(8));
  });

  test('later steps are left alone, and a window that agrees is not changed', () => {
    const x = array([2, 1, 2, 2], 'x');
    const t = 500;
    const [alpha, sigma] = [schedule.alpha(t), schedule.sigma(t)];
    const before = { ...array([1, 1, 2, 2], 'before') };
    // The velocity that leads from x to exactly `before`, on both frames.
    const data = x.data.map((value, i) => (alpha * value - before.data[i % 4]) / sigma);
    const agreeing: F32Array = { ...x, data };
    const adjust = continuing(schedule, before);
    const kept = adjust(agreeing, { x, t, done: 0, of: 4 });
    kept.data.forEach((value, i) => expect(value).toBeCloseTo(data[i], 5));
    const other = array([2, 1, 2, 2], 'other');
    expect(adjust(other, { x, t, done: 2, of: 4 })).toBe(other);
    expect(adjust(other, { x, t, done: 1, of: 4 })).not.toBe(other);
  });
});
