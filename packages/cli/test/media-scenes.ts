/** Small moving pictures and measures for the media tests. */

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { AttuneError } from '@attune/engine';
import { onTestFinished } from 'vitest';

import type { Frame } from '../src/media/index.ts';

/** A red disc that moves over a soft gradient, which says its time by its blue. */
export function scene(width: number, height: number, count: number, delay = 125): Frame[] {
  return Array.from({ length: count }, (_, f) => {
    const data = new Uint8Array(width * height * 3);
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++) {
        const inside = (x - 8 - f) ** 2 + (y - height / 2) ** 2 < (height / 4) ** 2;
        const colour = inside
          ? [200, 50, 40]
          : [60 + (100 * x) / width, 60 + (100 * y) / height, 80 + f * 3];
        data.set(colour.map(Math.round), (y * width + x) * 3);
      }
    return { data, width, height, delay };
  });
}

/** One colour. */
export const flat = (
  width: number,
  height: number,
  colour: readonly number[],
  delay = 0,
): Frame => ({
  data: new Uint8Array(Buffer.alloc(width * height * 3, Uint8Array.from(colour))),
  width,
  height,
  delay,
});

/** Peak signal to noise ratio of two frames, dB; b's top left part where it is larger. */
export function psnr(a: Frame, b: Frame): number {
  let sum = 0;
  for (let y = 0; y < a.height; y++)
    for (let i = 0; i < a.width * 3; i++)
      sum += (a.data[y * a.width * 3 + i] - b.data[y * b.width * 3 + i]) ** 2;
  return 10 * Math.log10(255 ** 2 / (sum / a.data.length));
}

/** RGB at (x, y). */
export const pixel = ({ data, width }: Frame, x: number, y: number): number[] =>
  Array.from(data.subarray((y * width + x) * 3, (y * width + x) * 3 + 3));

/** A folder for one test, removed after it. */
export function scratch(): string {
  const folder = mkdtempSync(join(tmpdir(), 'attune-media-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** The AttuneError that the work ends with. */
export async function failure(work: () => unknown): Promise<AttuneError> {
  try {
    await work();
  } catch (error) {
    if (AttuneError.is(error)) return error;
    throw error;
  }
  throw new Error('it did not fail');
}
