/** Counter-based randomness: known answers, pinned draws, independence. */

import { describe, expect, test } from 'vitest';

import { Rng } from '../../src/index.ts';
import { philox } from '../../src/runtime/rng.ts';

describe('Philox4x32-10', () => {
  // Random123's known-answer tests: counter, key, result.
  const answers = [
    [[0, 0, 0, 0], [0, 0], '6627e8d5 e169c58d bc57ac4c 9b00dbd8'],
    [
      [0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff],
      [0xffffffff, 0xffffffff],
      '408f276d 41c83b0e a20bc7c6 6d5451fd',
    ],
    [
      [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      [0xa4093822, 0x299f31d0],
      'd16cfe09 94fdcceb 5001e420 24126ea1',
    ],
  ] as const;

  test.each(answers)('of %j under %j', ([c0, c1, c2, c3], [k0, k1], want) => {
    const out = new Uint32Array(4);
    philox(k0, k1, c0, c1, c2, c3, out);
    expect([...out].map((word) => word.toString(16).padStart(8, '0')).join(' ')).toBe(want);
  });
});

describe('a stream', () => {
  test('of a seed is pinned', () => {
    const rng = Rng.of(0);
    expect([rng.bits(), rng.bits(), rng.bits(), rng.bits(), rng.bits()]).toMatchInlineSnapshot(`
      [
        1713891541,
        3781805453,
        3159862348,
        2600524760,
        4175744164,
      ]
    `);
    expect(Rng.of(2 ** 40 + 1).bits()).toMatchInlineSnapshot(`367351933`);
    expect([...Rng.of(1).normals([4]).data]).toMatchInlineSnapshot(`
      [
        0.38040074706077576,
        -0.29627788066864014,
        -0.2492334246635437,
        -1.00383722782135,
      ]
    `);
    expect(Rng.of(1).fork('step', 3).bits()).toMatchInlineSnapshot(`1683410463`);
    expect(Rng.of(1).permutation(8)).toMatchInlineSnapshot(`
      [
        1,
        0,
        4,
        2,
        5,
        3,
        6,
        7,
      ]
    `);
  });

  test('of seed 0 begins with the words of the zero counter under the zero key', () => {
    const rng = Rng.of(0);
    expect([0, 1, 2, 3].map(() => rng.bits().toString(16))).toEqual([
      '6627e8d5',
      'e169c58d',
      'bc57ac4c',
      '9b00dbd8',
    ]);
  });

  test('repeats itself', () => {
    expect(Rng.of(7).normals([5, 5])).toEqual(Rng.of(7).normals([5, 5]));
    expect(Rng.of(7).normals([5, 5])).not.toEqual(Rng.of(8).normals([5, 5]));
  });

  test('refuses what is no seed', () => {
    for (const seed of [-1, 0.5, Number.NaN, 2 ** 53]) expect(() => Rng.of(seed)).toThrow('A seed');
    expect(() => Rng.of(1).int(0)).toThrow('n ≥ 1');
  });
});

describe('forks', () => {
  test('depend on labels alone, not on draws', () => {
    const [fresh, used] = [Rng.of(3), Rng.of(3)];
    used.normals([7]);
    expect(used.fork('a').bits()).toBe(fresh.fork('a').bits());
    expect(used.bits()).not.toBe(fresh.bits());
  });

  test('nest: several labels are forks of forks', () => {
    expect(Rng.of(3).fork('a', 1).bits()).toBe(Rng.of(3).fork('a').fork(1).bits());
  });

  test('of different labels are different streams', () => {
    const root = Rng.of(5);
    const labels = Array.from({ length: 2000 }, (_, i) => i);
    const streams = [
      root,
      ...labels.map((i) => root.fork(i)),
      ...labels.map((i) => root.fork(String(i))),
      ...labels.map((i) => root.fork('step', i)),
      ...labels.map((i) => root.fork(i, 'step')),
    ];
    const heads = streams.map((rng) => `${rng.bits()} ${rng.bits()}`);
    expect(new Set(heads).size).toBe(streams.length);
  });

  test('are uncorrelated', () => {
    const n = 20_000;
    const root = Rng.of(9);
    const parts = [root, root.fork(0), root.fork(1), root.fork('a'), root.fork('b')].map(
      (rng) => rng.normals([n]).data,
    );
    for (const [i, a] of parts.entries())
      for (const b of parts.slice(i + 1)) {
        const product = a.reduce((s, v, k) => s + v * b[k], 0) / n;
        expect(Math.abs(product)).toBeLessThan(4 / Math.sqrt(n));
      }
  });
});

/** χ² of counts against equal expectations, in standard deviations from its mean. */
const surprise = (counts: readonly number[]): number => {
  const mean = counts.reduce((a, b) => a + b, 0) / counts.length;
  const chi = counts.reduce((s, count) => s + (count - mean) ** 2 / mean, 0);
  const freedom = counts.length - 1;
  return Math.abs(chi - freedom) / Math.sqrt(2 * freedom);
};

describe('draws', () => {
  test('are uniform, also in their low bits', () => {
    const rng = Rng.of(12);
    const [high, low] = [256, 256].map((n) => Array.from({ length: n }, () => 0));
    for (let i = 0; i < 200_000; i++) {
      const bits = rng.bits();
      high[bits >>> 24]++;
      low[bits & 255]++;
    }
    expect(surprise(high)).toBeLessThan(4);
    expect(surprise(low)).toBeLessThan(4);
  });

  test('of integers and items cover them evenly', () => {
    const rng = Rng.of(13);
    const counts = Array.from({ length: 7 }, () => 0);
    for (let i = 0; i < 70_000; i++) counts[rng.int(7)]++;
    expect(surprise(counts)).toBeLessThan(4);
    expect(new Set(Array.from({ length: 50 }, () => rng.pick(['a', 'b']))).size).toBe(2);
  });

  test('of permutations are permutations, each as likely', () => {
    const rng = Rng.of(14);
    const seen = new Map<string, number>();
    for (let i = 0; i < 12_000; i++) {
      const order = rng.permutation(4);
      expect(order.toSorted((a, b) => a - b)).toEqual([0, 1, 2, 3]);
      seen.set(order.join(), (seen.get(order.join()) ?? 0) + 1);
    }
    expect(seen.size).toBe(24);
    expect(surprise([...seen.values()])).toBeLessThan(4);
  });

  test('of uniforms lie in [0, 1)', () => {
    const rng = Rng.of(15);
    const draws = Array.from({ length: 50_000 }, () => rng.uniform());
    expect(Math.min(...draws.slice(0, 10_000))).toBeGreaterThanOrEqual(0);
    expect(draws.every((u) => u < 1)).toBe(true);
    expect(draws.reduce((a, b) => a + b, 0) / draws.length).toBeCloseTo(0.5, 2);
  });

  test('of normals have the moments of a normal', () => {
    const n = 200_000;
    const { data } = Rng.of(16).normals([n]);
    const moment = (power: number) => data.reduce((s, v) => s + v ** power, 0) / n;
    expect(data.every(Number.isFinite)).toBe(true);
    expect(Math.abs(moment(1))).toBeLessThan(0.01);
    expect(moment(2)).toBeCloseTo(1, 1.7);
    expect(Math.abs(moment(3))).toBeLessThan(0.04);
    expect(Math.abs(moment(4) - 3)).toBeLessThan(0.1);
    const beyond = data.filter((v) => Math.abs(v) > 1.96).length / n;
    expect(Math.abs(beyond - 0.05)).toBeLessThan(0.002);
  });
});
