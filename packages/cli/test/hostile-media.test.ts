/** Hostile pictures and clips: opened, or one clear error, soon and in little memory. */

import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { deflateSync } from 'node:zlib';

import { AttuneError, Rng } from '@attune/engine';
import sharp from 'sharp';
import { describe, expect, test } from 'vitest';

import { openMedia } from '../src/media/index.ts';
import { at, header, judged, png } from './hostile-scene.ts';

/** Opens a picture or clip and reads its first frames; the error's message where it is refused. */
async function watched(name: string, content: Uint8Array): Promise<string> {
  const path = at(name);
  writeFileSync(path, content);
  try {
    let count = 0;
    for await (const frame of (await openMedia(path)).frames()) {
      expect(frame.data.length).toBe(frame.width * frame.height * 3);
      if (++count === 3) break;
    }
    return 'opened';
  } catch (error) {
    if (!AttuneError.is(error)) throw error;
    expect(error.message.length).toBeLessThan(2000);
    return error.message;
  }
}

describe('pictures and clips', () => {
  test.each<[string, () => Uint8Array, RegExp]>([
    [
      'wide.png',
      () => png(['IHDR', header(2 ** 31 - 1, 2 ** 31 - 1)], ['IDAT', deflateSync('')]),
      /cannot be decoded|pixels/,
    ],
    [
      'big.png',
      () => png(['IHDR', header(40_000, 40_000)], ['IDAT', deflateSync(Buffer.alloc(1000))]),
      /cannot be decoded|pixels/,
    ],
    ['none.png', () => png(['IHDR', header(0, 0)]), /cannot be decoded/],
    [
      'big.gif',
      () => Buffer.from('474946383961ffffffff800000000000ffffff2c00000000ffffffff00023b', 'hex'),
      /cannot be decoded|pixels|cut off/,
    ],
    [
      'big.webp',
      () =>
        Buffer.from(
          '524946461e000000574542505650382011000000300100009d012affffffff0000000000',
          'hex',
        ),
      /cannot be decoded|pixels/,
    ],
    ['cut.jpg', () => Buffer.from('ffd8ffe000104a464946', 'hex'), /cannot be decoded/],
    ['cut.mp4', () => Buffer.from('0000002066747970697361366d', 'hex'), /cut\.mp4/],
    [
      'big.mp4',
      () => Buffer.from('00000010667479706d70343200000000ffffffff6d6f6f76', 'hex'),
      /big\.mp4/,
    ],
  ])('%s', async (name, content, message) => {
    expect(await watched(name, content())).toMatch(message);
  });

  test('text in a picture that unfolds to a gigabyte', async () => {
    const note = deflateSync(Buffer.alloc(2 ** 28, 'x'));
    const row = deflateSync(Buffer.alloc(4));
    const bytes = png(
      ['IHDR', header(1, 1)],
      ['zTXt', Buffer.concat([Buffer.from('attune\0\0'), note])],
      ['IDAT', row],
      ['IEND', Buffer.alloc(0)],
    );
    const before = process.memoryUsage().rss;
    await watched('note.png', bytes);
    expect(await judged(at('note.png'))).toBe('refused');
    expect(process.memoryUsage().rss - before).toBeLessThan(2 ** 28);
  });

  test('damaged bytes of every format', async () => {
    const frame = sharp({ create: { width: 24, height: 16, channels: 3, background: '#c04040' } });
    const pages = await Promise.all([0, 1, 2].map(() => frame.clone().png().toBuffer()));
    const clip = sharp(pages, { join: { animated: true } });
    const good: Readonly<Record<string, Buffer>> = {
      png: pages[0],
      jpg: await frame.clone().jpeg().toBuffer(),
      webp: await clip.clone().webp().toBuffer(),
      gif: await clip.clone().gif().toBuffer(),
    };
    for (const [format, sound] of Object.entries(good)) {
      const seen = { opened: 0, refused: 0 };
      for (let i = 0; i < 60; i++) {
        const rng = Rng.of(25).fork(format, i);
        const bytes = Buffer.from(i % 4 ? sound : sound.subarray(0, rng.int(sound.length)));
        for (let k = rng.int(4); k > 0 && bytes.length > 0; k--)
          bytes[rng.int(bytes.length)] = rng.int(256);
        seen[(await watched(`damaged.${format}`, bytes)) === 'opened' ? 'opened' : 'refused']++;
      }
      expect(seen.refused).toBeGreaterThan(5);
    }
  });

  test('a folder with a pipe among its frames', async () => {
    const own = at('frames');
    mkdirSync(own);
    execFileSync('/usr/bin/env', ['mkfifo', join(own, '0.png')]);
    await expect(openMedia(own)).rejects.toThrow(/no file/);
  });
});
