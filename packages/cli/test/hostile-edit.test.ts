/**
 * Damaged pictures and clips given to `attune edit`: a whole result, or exit 1 or 2 with one message and nothing
 * written.
 */

import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';

import { AttuneError, Rng } from '@attune/engine';
import sharp from 'sharp';
import { beforeAll, describe, expect, test } from 'vitest';

import { openMedia, writeMedia } from '../src/media/index.ts';
import { at, commanded, fixtures } from './hostile-scene.ts';
import { scene } from './media-scenes.ts';

const formats = ['png', 'jpg', 'webp', 'gif', 'mp4'] as const;

/** Whole files by their format. */
const whole = new Map<string, Buffer>();

beforeAll(async () => {
  writeFileSync(
    at('edit.yaml'),
    `backbone: ${fixtures}/unet/pocket\nadapters: [{ use: edit, from: ${fixtures}/compose/pocket/edit }]\n`,
  );
  const [still] = scene(48, 32, 1);
  const picture = sharp(still.data, { raw: { width: 48, height: 32, channels: 3 } });
  for (const format of formats) {
    const path = at(`whole.${format}`);
    if (format === 'png' || format === 'jpg') await picture.clone().toFile(path);
    else await writeMedia(path, scene(48, 32, 6));
    whole.set(format, readFileSync(path));
  }
});

/** The file cut off, or with a few bytes or a stretch of them changed; now and then nothing but noise. */
function damaged(bytes: Buffer, rng: Rng): Buffer {
  const noise = (length: number): Buffer => Buffer.from(Array.from({ length }, () => rng.int(256)));
  const way = rng.int(5);
  if (way === 0) return bytes.subarray(0, rng.int(bytes.length));
  const copy = Buffer.from(bytes);
  if (way === 1) noise(1 + rng.int(64)).copy(copy, rng.int(copy.length));
  else if (way === 2) noise(copy.length).copy(copy, Math.min(12, copy.length));
  else if (way === 3)
    return Buffer.concat([copy.subarray(0, rng.int(copy.length)), copy.subarray(rng.int(64))]);
  else for (let k = 1 + rng.int(8); k > 0; k--) copy[rng.int(copy.length)] = rng.int(256);
  return copy;
}

/** Decodes every frame; the message where it is refused. */
async function watched(path: string): Promise<string | undefined> {
  try {
    for await (const { data, width, height } of (await openMedia(path)).frames())
      expect(data.length).toBe(width * height * 3);
    return undefined;
  } catch (error) {
    if (!AttuneError.is(error)) throw error;
    expect(error.message.length).toBeLessThan(2000);
    return error.message;
  }
}

describe.each(formats)('%s', (format) => {
  const options =
    `-i golden --steps 1 --window 2 --overlap 0 --max-frames 2 --threads 1 --stack ${at('edit.yaml')}`.split(
      ' ',
    );

  test('40 damaged files are read whole, or refused by their name', async () => {
    let refused = 0;
    for (let i = 0; i < 40; i++) {
      const path = at(`damaged-${i}.${format}`);
      writeFileSync(path, damaged(whole.get(format)!, Rng.of(27).fork(format, i)));
      const message = await watched(path);
      if (message === undefined) continue;
      refused++;
      expect(message).toContain(`damaged-${i}.${format}`);
    }
    expect(refused).toBeGreaterThan(10);
  });

  test('6 damaged files are edited whole, or nothing is written', async () => {
    for (let i = 0; i < 6; i++) {
      const path = at(`given.${format}`);
      writeFileSync(path, damaged(whole.get(format)!, Rng.of(28).fork(format, i)));
      const out = at(format === 'png' || format === 'jpg' ? 'edited.png' : 'edited.webp');
      const before = readdirSync(at('')).toSorted();
      const { status, said } = await commanded('edit', path, ...options, '-o', out);
      const after = readdirSync(at('')).toSorted();
      if (status === 0) {
        expect(await watched(out)).toBeUndefined();
        rmSync(out);
      } else {
        expect([1, 2]).toContain(status);
        expect(said).toContain(`given.${format}`);
        expect(after).toEqual(before);
      }
    }
  });
});
