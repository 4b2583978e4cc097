/** Masks of strengths from pictures and clips. */

import { mkdirSync, mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { f32, writeSafetensors } from '@attune/engine';
import sharp from 'sharp';
import { expect, test } from 'vitest';

import { readMask } from '../src/stack-media.ts';

const folder = mkdtempSync(join(tmpdir(), 'mask-'));

/** A 4 × 2 picture, white on the left. */
const picture = (path: string, left: string) =>
  sharp({ create: { width: 4, height: 2, channels: 3, background: 'black' } })
    .composite([
      {
        input: { create: { width: 2, height: 2, channels: 3, background: left } },
        left: 0,
        top: 0,
      },
    ])
    .png()
    .toFile(path);

test('a picture is its brightness', async () => {
  const path = join(folder, 'left.png');
  await picture(path, '#ff0000');
  const { shape, data } = await readMask(path);
  expect(shape).toEqual([2, 4]);
  const red = [0.2126, 0.2126, 0, 0];
  [...red, ...red].forEach((value, i) => expect(data[i]).toBeCloseTo(value, 6));
});

test('a folder of frames has a mask for each', async () => {
  const frames = join(folder, 'frames');
  mkdirSync(frames);
  await picture(join(frames, '0.png'), 'white');
  await picture(join(frames, '1.png'), 'black');
  const { shape, data } = await readMask(frames);
  expect(shape).toEqual([2, 2, 4]);
  expect([...data.subarray(0, 4)]).toEqual([1, 1, 0, 0]);
  expect(data.subarray(8).every((value) => value === 0)).toBe(true);
});

test('a tensor is read as it is', async () => {
  const path = join(folder, 'mask.safetensors');
  writeSafetensors(path, { mask: f32([0.5, 2], [1, 2]) }, {});
  expect(await readMask(path)).toEqual(f32([0.5, 2], [1, 2]));
  const other = join(folder, 'other.safetensors');
  writeSafetensors(other, { masks: f32([1], [1, 1]) }, {});
  await expect(readMask(other)).rejects.toThrow(/no tensor "mask"/);
});
