/** How windows are joined, by correction and by fusion, and texts that change over the frames. */

import {
  continuing,
  ddimPlan,
  fusing,
  fusionWeights,
  NoiseSchedule,
  sharesOf,
  takeStep,
  turnsOf,
} from '@attune/core';
import { type F32Array, Rng } from '@attune/engine';
import { describe, expect, test } from 'vitest';

const array = (shape: readonly number[], name: string): F32Array =>
  Rng.of(3).fork(name).normals(shape);

const schedule = NoiseSchedule.of({ prediction_type: 'v_prediction', beta_schedule: 'linear' });

describe('continuing', () => {
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

describe('fusing', () => {
  test('the part of the later window rises over the overlap, and what is out already stays', () => {
    expect(fusionWeights(4, 4)).toEqual([0.2, 0.4, 0.6, 0.8]);
    expect(fusionWeights(5, 2)).toEqual([0, 0, 0, 1 / 3, 2 / 3]);
    expect(fusionWeights(2, 0)).toEqual([0, 0]);
  });

  const at = { x: array([3, 1, 2, 2], 'x'), t: 400, done: 0, of: 4 };
  const prediction = array([3, 1, 2, 2], 'prediction');
  const clean = (p: F32Array): number[] =>
    Array.from(p.data, (v, i) => schedule.alpha(400) * at.x.data[i] - schedule.sigma(400) * v);

  test('the clean estimate of a shared frame is the blend, whatever x is; the others are left alone', () => {
    const before = [array([2, 1, 2, 2], 'step 0'), array([2, 1, 2, 2], 'step 1')];
    const own = [0.25, 0.75];
    const adjust = fusing(schedule, before, own);
    for (const done of [0, 1]) {
      const fused = adjust(prediction, { ...at, done });
      const [was, is] = [clean(prediction), clean(fused)];
      before[done].data.forEach((value, i) => {
        const part = own[Math.floor(i / 4)];
        expect(is[i]).toBeCloseTo(part * was[i] + (1 - part) * value, 5);
      });
      expect(fused.data.slice(8)).toEqual(prediction.data.slice(8));
    }
  });

  test('with a share the others get the mean change, as a correction does; with no part of its own it is one', () => {
    const before = array([2, 1, 2, 2], 'before');
    const steps = [before, before, before, before];
    const fused = fusing(schedule, steps, [0, 0], 0.5)(prediction, at);
    const corrected = continuing(schedule, before)(prediction, at);
    expect(fused.data).toEqual(corrected.data);
    const late = { ...at, done: 2 };
    expect(fusing(schedule, steps, [0, 0], 0.5)(prediction, late).data.slice(8)).toEqual(
      prediction.data.slice(8),
    );
    // A constant difference from the earlier window reaches the others whole, however it is weighted.
    const moved = {
      ...before,
      data: Float32Array.from(clean(prediction).slice(0, 8), (v) => v + 0.5),
    };
    const led = clean(fusing(schedule, [moved], [0.3, 0.6], 0.5)(prediction, at));
    clean(prediction)
      .slice(8)
      .forEach((v, i) => expect(led[8 + i]).toBeCloseTo(v + 0.5, 5));
  });
});

describe('texts over time', () => {
  const turns = turnsOf({ instruction: 'a', caption: 'A', motionCaption: 'A moves' }, [
    { from: 6, caption: 'C' },
    { from: 3, instruction: 'b' },
  ]);

  test('what is not given stays; words of motion go with a new caption', () => {
    expect(turns).toEqual([
      { from: 0, instruction: 'a', caption: 'A', motionCaption: 'A moves' },
      { from: 3, instruction: 'b', caption: 'A', motionCaption: 'A moves' },
      { from: 6, instruction: 'b', caption: 'C', motionCaption: 'C' },
    ]);
    expect(turnsOf({ instruction: 'a' }, [{ from: 0, instruction: 'b' }])).toEqual([
      { from: 0, instruction: 'b', caption: '', motionCaption: '' },
    ]);
    expect(() => turnsOf({ instruction: 'a' }, [{ from: 1.5 }])).toThrow('frame 1.5');
    expect(() => turnsOf({ instruction: 'a' }, [{ from: 2 }, { from: 2 }])).toThrow(
      'frame 2 twice',
    );
  });

  test('a hard switch, a fade, and windows that know nothing of it', () => {
    expect(sharesOf(turns, 0, 3, 0)).toEqual([{ turn: 0, shares: [1, 1, 1] }]);
    expect(sharesOf(turns, 2, 3, 0)).toEqual([
      { turn: 0, shares: [1, 0, 0] },
      { turn: 1, shares: [0, 1, 1] },
    ]);
    expect(sharesOf(turns, 2, 3, 1)).toEqual([
      { turn: 0, shares: [1, 0.5, 0] },
      { turn: 1, shares: [0, 0.5, 1] },
    ]);
    expect(sharesOf(turns, 20, 2, 3)).toEqual([{ turn: 2, shares: [1, 1] }]);
  });

  test.each([0, 1, 2, 5])('the shares of a frame sum to 1, with a fade of %i', (fade) => {
    const found = sharesOf(turns, 0, 16, fade);
    for (let frame = 0; frame < 16; frame++) {
      const sum = found.reduce((total, { shares }) => total + shares[frame], 0);
      expect(sum).toBeCloseTo(1, 12);
      expect(found.every(({ shares }) => shares[frame] >= 0)).toBe(true);
    }
  });
});
