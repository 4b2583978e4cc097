/** Sliding windows: every frame once, full windows. */

import { type Window, windows } from '@attune/core';
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
