import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { AttuneError } from '@attune/engine';
import sharp from 'sharp';
import { describe, expect, test } from 'vitest';

import { type Frame, type Media, openMedia, readMedia, writeMedia } from '../src/media/index.ts';
import { failure, flat, pixel, psnr, scene, scratch } from './media-scenes.ts';

const delaysOf = (frames: readonly Frame[]) => frames.map(({ delay }) => Math.round(delay));

describe('stills', () => {
  test.each([
    ['png', Infinity],
    ['webp', Infinity],
    ['jpg', 35],
  ])('%s there and back at odd sizes', async (extension, floor) => {
    const path = join(scratch(), `a.${extension}`);
    const [frame] = scene(37, 23, 1, 0);
    const written = await writeMedia(path, [frame]);
    expect(written).toMatchObject({ path, frames: 1, width: 37, height: 23, notices: [] });
    const media = await readMedia(path);
    expect(media).toMatchObject({ kind: 'image', width: 37, height: 23, fps: 0, cut: false });
    expect(media.frames[0].delay).toBe(0);
    expect(psnr(frame, media.frames[0])).toBeGreaterThanOrEqual(floor);
  });

  test('alpha lies over white; grey, 16 bits and palettes become RGB', async () => {
    const folder = scratch();
    const half = { r: 255, g: 0, b: 0, alpha: 0.5 };
    const create = { width: 3, height: 5, channels: 4, background: half } as const;
    await sharp({ create }).png().toFile(join(folder, 'alpha.png'));
    await sharp({ create }).webp({ lossless: true }).toFile(join(folder, 'alpha.webp'));
    for (const name of ['alpha.png', 'alpha.webp']) {
      const [frame] = (await readMedia(join(folder, name))).frames;
      const [r, g, b] = pixel(frame, 1, 1);
      expect([r, Math.abs(g - 127) <= 1, Math.abs(b - 127) <= 1]).toEqual([255, true, true]);
    }
    const grey = sharp(Buffer.alloc(15, 77), { raw: { width: 3, height: 5, channels: 1 } });
    await grey.clone().toColourspace('b-w').png().toFile(join(folder, 'grey.png'));
    await grey.clone().toColourspace('rgb16').png().toFile(join(folder, 'deep.png'));
    await grey.clone().png({ palette: true }).toFile(join(folder, 'palette.png'));
    for (const name of ['grey.png', 'deep.png', 'palette.png'])
      expect(pixel((await readMedia(join(folder, name))).frames[0], 2, 4)).toEqual([77, 77, 77]);
  });

  test.each([1, 3, 6, 8])('EXIF orientation %i is honoured', async (orientation) => {
    const path = join(scratch(), 'turned.jpg');
    const upright = sharp(Buffer.from(scene(40, 24, 1)[0].data), {
      raw: { width: 40, height: 24, channels: 3 },
    });
    const back = { 1: 0, 3: 180, 6: 270, 8: 90 }[orientation];
    await upright.rotate(back).withMetadata({ orientation }).jpeg({ quality: 98 }).toFile(path);
    const source = await openMedia(path);
    expect([source.width, source.height]).toEqual([40, 24]);
    const media = await readMedia(path);
    expect(psnr(scene(40, 24, 1)[0], media.frames[0])).toBeGreaterThan(30);
  });

  test('a file that changes is read anew', async () => {
    const path = join(scratch(), 'a.png');
    for (const colour of [
      [255, 0, 0],
      [0, 0, 255],
    ]) {
      await writeMedia(path, [flat(4, 4, colour)]);
      expect(pixel((await readMedia(path)).frames[0], 0, 0)).toEqual(colour);
    }
  });
});

describe('animations', () => {
  test('gif keeps repeated frames and delays to 10 ms', async () => {
    const path = join(scratch(), 'a.gif');
    const frames = [...scene(37, 23, 4), ...scene(37, 23, 4).slice(3)];
    await writeMedia(path, frames, { delays: [70, 125, 125, 300, 40] });
    const media = await readMedia(path);
    expect(media).toMatchObject({ kind: 'clip', width: 37, height: 23 });
    expect(delaysOf(media.frames)).toEqual([70, 130, 120, 300, 40]);
    expect(media.fps).toBeCloseTo(5 / 0.66);
    frames.forEach((frame, i) => expect(psnr(frame, media.frames[i])).toBeGreaterThan(28));
  });

  test('webp is exact; what repeats lasts longer', async () => {
    const path = join(scratch(), 'a.webp');
    const frames = scene(37, 23, 4, 125);
    await writeMedia(path, [...frames, frames[3]]);
    const media = await readMedia(path);
    expect(delaysOf(media.frames)).toEqual([125, 125, 125, 250]);
    frames.forEach((frame, i) => expect(psnr(frame, media.frames[i])).toBe(Infinity));
  });

  test('delays of 0 are what browsers make of them', async () => {
    const path = join(scratch(), 'a.gif');
    const raw = Buffer.concat(scene(8, 8, 3).map(({ data }) => data));
    await sharp(raw, { raw: { width: 8, height: 24, channels: 3, pageHeight: 8 } })
      .gif({ delay: [0, 0, 50] })
      .toFile(path);
    expect(delaysOf((await readMedia(path)).frames)).toEqual([100, 100, 50]);
  });

  test('a long one comes in chunks, and as few frames as asked for', async () => {
    const path = join(scratch(), 'long.webp');
    const count = 700; // of 160 × 160: two chunks
    const frames = Array.from({ length: count }, (_, i) =>
      flat(160, 160, [i % 256, Math.floor(i / 256), 0], 40),
    );
    await writeMedia(path, frames);
    const source = await openMedia(path);
    expect(source).toMatchObject({ frameCount: count, fps: 25 });
    let i = 0;
    for await (const frame of source.frames()) {
      expect(pixel(frame, 3, 3)).toEqual([i % 256, Math.floor(i / 256), 0]);
      i++;
    }
    expect(i).toBe(count);
    const some = await readMedia(path, { maxFrames: 5, fit: { width: 8, height: 8 } });
    expect(some).toMatchObject({ cut: true, width: 8, height: 8 });
    expect(some.frames).toHaveLength(5);
  });
});

describe('folders', () => {
  test('natural order, other files left out', async () => {
    const folder = scratch();
    const colours = { 'f1.png': 10, 'f2.jpg': 20, 'F3.webp': 25, 'f10.png': 30 };
    for (const [name, grey] of Object.entries(colours))
      await writeMedia(join(folder, name), [flat(6, 4, [grey, grey, grey])]);
    writeFileSync(join(folder, 'notes.txt'), 'x');
    writeFileSync(join(folder, '.hidden.png'), 'x');
    mkdirSync(join(folder, 'f0.png'));
    const media = await readMedia(folder, { fps: 5 });
    expect(media).toMatchObject({ kind: 'clip', fps: 5 });
    expect(media.frames.map((frame) => Math.round(pixel(frame, 2, 2)[0] / 5))).toEqual([
      2, 4, 5, 6,
    ]);
    expect(delaysOf(media.frames)).toEqual([200, 200, 200, 200]);
  });

  test('written and read back', async () => {
    const folder = join(scratch(), 'frames');
    const frames = scene(9, 7, 12);
    await writeMedia(folder, frames);
    const media = await readMedia(`${folder}/`);
    frames.forEach((frame, i) => expect(psnr(frame, media.frames[i])).toBe(Infinity));
  });

  test('without frames, or with two sizes', async () => {
    const folder = scratch();
    expect((await failure(() => readMedia(folder))).code).toBe('NO_FRAMES');
    await writeMedia(join(folder, '1.png'), [flat(6, 4, [1, 2, 3])]);
    await writeMedia(join(folder, '2.png'), [flat(4, 6, [1, 2, 3])]);
    const error = await failure(() => readMedia(folder));
    expect(error.message).toContain('2.png: 4×6 pixels, but 1.png has 6×4');
  });
});

describe('bad input', () => {
  test.each(['png', 'jpg', 'webp', 'gif'])('a %s cut anywhere is refused', async (extension) => {
    const folder = scratch();
    const whole = join(folder, `whole.${extension}`);
    await writeMedia(whole, scene(64, 48, extension === 'gif' ? 6 : 1));
    const bytes = readFileSync(whole);
    const cut = join(folder, `cut.${extension}`);
    for (const part of [0.02, 0.2, 0.5, 0.8, 0.95]) {
      writeFileSync(cut, bytes.subarray(0, Math.floor(bytes.length * part)));
      const error = await failure(() => readMedia(cut));
      expect(['BAD_FILE', 'UNSUPPORTED_MEDIA']).toContain(error.code);
      expect(error.message).toContain(cut);
    }
  });

  test('absent, empty, not media, a device', async () => {
    const folder = scratch();
    const path = join(folder, 'a.png');
    expect((await failure(() => readMedia(path))).code).toBe('MISSING_FILE');
    writeFileSync(path, '');
    expect((await failure(() => readMedia(path))).message).toContain('the file is empty');
    writeFileSync(path, '<svg xmlns="http://www.w3.org/2000/svg"/>');
    expect((await failure(() => readMedia(path))).code).toBe('UNSUPPORTED_MEDIA');
    expect((await failure(() => readMedia('/dev/zero'))).code).toBe('MISSING_FILE');
  });

  test('a picture that claims too many pixels is refused before decoding', async () => {
    const path = join(scratch(), 'bomb.png');
    const png = await sharp({ create: { width: 8, height: 8, channels: 3, background: '#000' } })
      .png()
      .toBuffer();
    png.writeUInt32BE(60_000, 16);
    png.writeUInt32BE(60_000, 20);
    writeFileSync(path, png);
    expect(['BAD_FILE', 'MEDIA_TOO_BIG']).toContain((await failure(() => readMedia(path))).code);
  });

  test('flipped bytes never crash', async () => {
    const folder = scratch();
    for (const extension of ['png', 'jpg', 'webp', 'gif']) {
      const path = join(folder, `a.${extension}`);
      await writeMedia(path, scene(24, 16, extension === 'gif' ? 3 : 1));
      const bytes = readFileSync(path);
      for (let i = 0; i < 40; i++) {
        const broken = Buffer.from(bytes);
        for (let j = 0; j < 4; j++)
          broken[(i * 7919 + j * 104_729) % broken.length] ^= 1 << (i % 8);
        writeFileSync(path, broken);
        const end = await readMedia(path).catch((error: unknown) => error);
        expect(AttuneError.is(end) || (end as Media).frames.length > 0).toBe(true);
      }
    }
  });
});
