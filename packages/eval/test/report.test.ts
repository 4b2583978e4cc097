import { Rng } from '@attune/engine';
import { describe, expect, test } from 'vitest';

import {
  bootstrapMean,
  excludes,
  formatReport,
  meanRanks,
  type Metric,
  pairedDifference,
} from '../src/index.ts';

const clips = (count: number, mean: number, deviation: number, rng: Rng): number[] =>
  Array.from({ length: count }, () => mean + deviation * rng.normal());

const width = (values: number[][]): number => {
  const { low, high } = bootstrapMean(values, Rng.of(6));
  return high - low;
};

describe('bootstrap', () => {
  test('its width is that of the normal theory, for one seed', () => {
    const { mean, low, high, count } = bootstrapMean([clips(400, 2, 1, Rng.of(1))], Rng.of(2));
    expect(count).toBe(400);
    expect(Math.abs(mean - 2)).toBeLessThan(0.15);
    expect(high - low).toBeGreaterThan(0.8 * 2 * 1.96 * 0.05);
    expect(high - low).toBeLessThan(1.2 * 2 * 1.96 * 0.05);
  });

  test('covers the truth about as often as it says', () => {
    let hits = 0;
    for (let i = 0; i < 200; i++) {
      const values = clips(60, 0, 1, Rng.of(100 + i));
      const { low, high } = bootstrapMean([values], Rng.of(i), { resamples: 300 });
      if (low <= 0 && high >= 0) hits++;
    }
    expect(hits / 200).toBeGreaterThan(0.88);
    expect(hits / 200).toBeLessThan(0.99);
  });

  test('seeds that disagree widen it', () => {
    const rng = Rng.of(5);
    const agree = [0, 0, 0, 0].map((mean) => clips(50, mean, 0.1, rng));
    const differ = [-1, 1, -1, 1].map((mean) => clips(50, mean, 0.1, rng));
    expect(width(differ)).toBeGreaterThan(10 * width(agree));
  });

  test('pairing removes what clips share', () => {
    const rng = Rng.of(7);
    const base = [clips(100, 20, 5, rng), clips(100, 20, 5, rng)];
    const better = base.map((seed) => seed.map((value) => value + 0.3 + 0.1 * rng.normal()));
    const { mean, low, high } = pairedDifference(better, base, Rng.of(8));
    expect(mean).toBeCloseTo(0.3, 1);
    expect(excludes({ mean, low, high, count: 200 })).toBe(true);
    expect(excludes(bootstrapMean(base, Rng.of(9)), 20)).toBe(false);
  });

  test('clips without a value are left out; none at all is an error', () => {
    expect(bootstrapMean([[1, Number.NaN, 1]], Rng.of(1))).toEqual({
      mean: 1,
      low: 1,
      high: 1,
      count: 2,
    });
    expect(() => bootstrapMean([[Number.NaN]], Rng.of(1))).toThrow('no clip has a value');
    expect(() => pairedDifference([[1, 2]], [[1]], Rng.of(1))).toThrow('same seeds and clips');
  });

  test('equal streams give equal intervals', () => {
    const values = [clips(20, 0, 1, Rng.of(1))];
    expect(bootstrapMean(values, Rng.of(4))).toEqual(bootstrapMean(values, Rng.of(4)));
  });
});

describe('report', () => {
  const metrics: Metric[] = [
    { key: 'psnr', label: 'PSNR', unit: 'dB', better: 'higher', digits: 1 },
    { key: 'flicker', label: 'flicker', better: 'lower', digits: 3 },
    { key: 'seconds', label: 'time', unit: 's' },
  ];
  const rows = [
    { name: 'plain', values: { psnr: 20, flicker: 0.02, seconds: 1 } },
    {
      name: 'aligned',
      values: { psnr: 22, flicker: 0.01, seconds: 2 },
      intervals: { psnr: { low: 21, high: 23 } },
    },
    { name: 'copy', values: { psnr: 20, flicker: Number.NaN } },
  ];

  test('mean ranks follow directions, share ties, and put what is missing last', () => {
    expect(meanRanks({ metrics, rows })).toEqual([(2.5 + 2) / 2, 1, (2.5 + 3) / 2]);
  });

  test('prints a table', () => {
    expect(formatReport({ title: 'T', metrics, rows, notes: ['n = 3'] })).toMatchInlineSnapshot(`
      "T

      |         |       PSNR (dB) ↑ | flicker ↓ | time (s) |
      | ------- | ----------------: | --------: | -------: |
      | plain   |              20.0 |     0.020 |     1.00 |
      | aligned | 22.0 [21.0, 23.0] |     0.010 |     2.00 |
      | copy    |              20.0 |         – |        – |

      n = 3"
    `);
  });
});
