import { Rng } from '@attune/engine';
import { expect, test } from 'vitest';

import { denoise, DenoiseOptions, type Model, NoiseSchedule } from '../src/index.ts';

const T = 1000;
const schedule = NoiseSchedule.of({ num_train_timesteps: T });
const model = { schedule, latents: { channels: 4, factor: 8, scale: 1, shift: 0 } } as Model;
const ids = Array.from({ length: 4000 }, (_, id) => id);

const drawn = (shift: number): number[] => {
  const objective = denoise(DenoiseOptions.parse({ shift }), model);
  const { timestep, alpha } = objective.draw!(ids, Rng.of(1), () => [ids.length, 1]);
  [...timestep.data].forEach((t, k) =>
    expect(alpha.data[k]).toBeCloseTo(schedule.alpha(Number(t)), 6),
  );
  return [...timestep.data].map(Number);
};

/** P(t′ < T x) = P(t < T x / (s − (s − 1) x)), the inverse of the shift. */
test.each([1, 0.4, 3])('times shifted by %d lie as the formula says', (s) => {
  const times = drawn(s);
  expect(Math.min(...times)).toBeGreaterThanOrEqual(0);
  expect(Math.max(...times)).toBeLessThan(T);
  for (const x of [0.2, 0.5, 0.8]) {
    const share = times.filter((t) => t < T * x).length / times.length;
    // Three standard errors of 4,000 draws.
    expect(Math.abs(share - x / (s - (s - 1) * x))).toBeLessThan(0.024);
  }
});
