/** `attune edit` of the built command: pictures and clips of any length, and input that is refused. */

import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative, resolve } from 'node:path';

import sharp from 'sharp';
import { beforeAll, describe, expect, test } from 'vitest';

import { attune } from '../../../test/attune.ts';
import { PACKET, RATE, soundClip, soundOf } from './sound-scenes.ts';

const folder = mkdtempSync(join(tmpdir(), 'edit-'));
const at = (name: string) => join(folder, name);
const composed = relative(folder, resolve('test/parity/fixtures/compose/pocket'));
const backbone = relative(folder, resolve('test/parity/fixtures/unet/pocket'));

const edit = (input: string, out: string, ...more: readonly string[]) =>
  attune('edit', input, '-i', 'make it golden', '--stack', at('stack.yaml'), '-o', out, ...more);

/** A picture of a moving bar. */
const picture = (moment: number) =>
  sharp(
    Buffer.from(
      Array.from({ length: 80 * 96 }, (_, i) => {
        const inside = Math.abs((i % 96) - 20 - 4 * moment) < 9;
        return inside ? [220, 40, 40] : [30, 90, 200];
      }).flat(),
    ),
    { raw: { width: 96, height: 80, channels: 3 } },
  );

const pixelsOf = async (path: string): Promise<Buffer> =>
  sharp(path, { animated: true }).removeAlpha().raw().toBuffer();

const distance = (a: Buffer, b: Buffer): number =>
  a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i])), 0);

const entries = (...names: readonly string[]): string =>
  names.map((name) => `  - { use: ${name}, from: ${composed}/${name} }`).join('\n');

beforeAll(async () => {
  writeFileSync(
    at('stack.yaml'),
    `backbone: ${backbone}\nadapters:\n${entries('edit', 'video')}\n`,
  );
  writeFileSync(at('stills.yaml'), `backbone: ${backbone}\nadapters:\n${entries('edit')}\n`);
  writeFileSync(at('video.yaml'), `backbone: ${backbone}\nadapters:\n${entries('video')}\n`);
  await picture(0).png().toFile(at('one.png'));
  const frames = await Promise.all(
    Array.from({ length: 11 }, async (_, moment) => picture(moment).png().toBuffer()),
  );
  await sharp(frames, { join: { animated: true } })
    .webp({ lossless: true, delay: frames.map((_, i) => 100 + i) })
    .toFile(at('clip.webp'));
});

const quick = ['--steps', '3', '--window', '4', '--overlap', '1'] as const;

describe('what comes out', () => {
  test('a clip longer than a window keeps its frames and times; the same command gives the same bytes', async () => {
    const [first, second] = ['a.webp', 'b.webp'].map(at);
    const { status, stdout } = edit(at('clip.webp'), first, ...quick, '--json');
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ frames: 11, width: 64, height: 64 });
    const { pages, delay } = await sharp(first, { animated: true }).metadata();
    expect({ pages, delay }).toEqual({
      pages: 11,
      delay: Array.from({ length: 11 }, (_, i) => 100 + i),
    });
    expect(edit(at('clip.webp'), second, ...quick).status).toBe(0);
    expect((await pixelsOf(second)).equals(await pixelsOf(first))).toBe(true);
    expect(edit(at('clip.webp'), at('c.webp'), ...quick, '--seed', '1').status).toBe(0);
    expect(distance(await pixelsOf(at('c.webp')), await pixelsOf(first))).toBeGreaterThan(8);
  });

  test('a picture; the first frame of a longer clip is the same picture where frames do not mix', async () => {
    const stills = ['--stack', at('stills.yaml')];
    expect(edit(at('one.png'), at('one-edited.png'), ...quick, ...stills).status).toBe(0);
    expect(edit(at('clip.webp'), at('each.webp'), ...quick, ...stills).status).toBe(0);
    const [one, each] = await Promise.all([at('one-edited.png'), at('each.webp')].map(pixelsOf));
    expect(distance(one, each.subarray(0, one.length))).toBeLessThanOrEqual(1);
    expect(each.length).toBe(11 * one.length);
  });

  test('the result says what it was made with, and inspect reads it', () => {
    writeFileSync(at('stack.lock.json'), '{}');
    const more = ['--caption', 'a golden bar', '--seed', '3', '--sampler', 'euler'];
    expect(edit(at('one.png'), at('made.png'), ...quick, ...more).status).toBe(0);
    rmSync(at('stack.lock.json'));
    const { status, stdout } = attune('inspect', at('made.png'), '--json');
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toEqual({
      file: at('made.png'),
      kind: 'result',
      madeWith: {
        instruction: 'make it golden',
        caption: 'a golden bar',
        seed: '3',
        steps: '3',
        guidance: expect.stringMatching(/^[\d.]+$/),
        image_guidance: expect.stringMatching(/^[\d.]+$/),
        sampler: 'euler',
        window: '4',
        overlap: '1',
        join: 'correct',
        stack: at('stack.yaml'),
        lock: createHash('sha256').update('{}').digest('hex').slice(0, 16),
        attune: '0.0.0',
      },
    });
    expect(attune('inspect', at('made.png')).stdout).toContain('instruction     make it golden');
    expect(attune('inspect', at('one.png')).status).toBe(2);
  });

  test('a stack that mixes frames edits a picture without them, and says so', () => {
    const { status, stderr } = edit(at('one.png'), at('alone.png'), ...quick);
    expect(status).toBe(0);
    expect(stderr).toContain('adapters that mix frames are left out');
  });

  test('--max-frames, --compare and a folder of frames', async () => {
    const args = [...quick, '--max-frames', '2', '--compare'];
    expect(edit(at('clip.webp'), at('frames'), ...args).status).toBe(0);
    expect(readdirSync(at('frames'))).toEqual(['frame-00001.png', 'frame-00002.png']);
    const { width } = await sharp(join(at('frames'), 'frame-00001.png')).metadata();
    expect(width).toBeGreaterThan(2 * 256);
  });
});

describe('over time', () => {
  test('--at and --texts say what holds from a frame on, and the result remembers; --join joins', async () => {
    const stills = [...quick, '--stack', at('stills.yaml'), '--max-frames', '6'];
    writeFileSync(at('texts.yaml'), '- { at: 4, caption: ice, instruction: make it icy }\n');
    const run = (out: string, ...more: readonly string[]) =>
      attune('edit', at('clip.webp'), '-o', at(out), ...stills, ...more);
    expect(run('golden.webp', '-i', 'make it golden').status).toBe(0);
    const icy = ['--at', '0=make it golden', '--at', '4=make it icy'];
    expect(run('icy.webp', ...icy).status).toBe(0);
    const [golden, both] = await Promise.all([at('golden.webp'), at('icy.webp')].map(pixelsOf));
    const half = (4 * golden.length) / 6;
    expect(both.subarray(0, half).equals(golden.subarray(0, half))).toBe(true);
    expect(distance(both.subarray(half), golden.subarray(half))).toBeGreaterThan(4);
    const texts = ['-i', 'make it golden', '--texts', at('texts.yaml'), '--join', 'fuse'];
    expect(run('file.webp', ...texts).status).toBe(0);
    const { madeWith } = JSON.parse(attune('inspect', at('file.webp'), '--json').stdout);
    expect(madeWith).toMatchObject({ instruction: 'make it golden', join: 'fuse' });
    expect(JSON.parse(madeWith.later)).toEqual([
      { from: 4, caption: 'ice', instruction: 'make it icy' },
    ]);
  }, 120_000);

  test.each([
    ['nothing said', [], 'what to change'],
    ['not of the first frame', ['--at', '4=make it icy'], 'what to change'],
    ['no frame', ['-i', 'x', '--at', 'make it icy'], 'give a frame and a text'],
    ['a frame twice', ['-i', 'x', '--at', '4=a', '--at', '4=b'], 'frame 4 twice'],
    ['a file that is no list', ['-i', 'x', '--texts', at('stack.yaml')], 'stack.yaml'],
    ['a way of joining that there is not', ['-i', 'x', '--join', 'glue'], 'correct, fuse, both'],
  ])('%s: refused, with nothing written', (_, args, words) => {
    const stack = ['--stack', at('stack.yaml'), '--steps', '2'];
    const { status, stderr } = attune(
      'edit',
      at('clip.webp'),
      '-o',
      at('bad.webp'),
      ...stack,
      ...args,
    );
    expect(stderr).toContain(words);
    expect(status).toBe(2);
    expect(existsSync(at('bad.webp'))).toBe(false);
  });
});

describe('sound', () => {
  const stills = [...quick, '--stack', at('stills.yaml')];

  test('goes along, as long as the frames; not with --no-audio, and not at another speed', async () => {
    await soundClip(at('loud.mp4'), 4, 0.5);
    const go = (out: string, ...more: readonly string[]) =>
      edit(at('loud.mp4'), at(out), ...stills, ...more);
    expect(go('kept.mp4')).toMatchObject({ status: 0, stderr: expect.not.stringMatching(/sound/) });
    const [given, kept] = [await soundOf(at('loud.mp4')), await soundOf(at('kept.mp4'))];
    expect(kept?.packets.length).toBeGreaterThan(20);
    expect(given?.packets.slice(0, kept?.packets.length)).toEqual(kept?.packets);
    go('cut.mp4', '--max-frames', '2');
    expect((await soundOf(at('cut.mp4')))?.packets).toHaveLength(Math.ceil((0.25 * RATE) / PACKET));
    expect(go('mute.mp4', '--no-audio').stderr).not.toMatch(/sound/);
    expect(await soundOf(at('mute.mp4'))).toBeUndefined();
    expect(go('fast.mp4', '--fps', '16').stderr).toContain('at another speed');
    expect(await soundOf(at('fast.mp4'))).toBeUndefined();
    expect(go('same.mp4', '--fps', '8').stderr).not.toMatch(/sound/);
    expect(await soundOf(at('same.mp4'))).toEqual(kept);
    expect(go('loud.gif').stderr).toContain('only an mp4 holds sound');
  }, 120_000);
});

describe('what is refused, with nothing written', () => {
  test.each([
    [
      'more frames than the position table',
      ['--window', '40'],
      'frames at once, 40 were asked for',
    ],
    ['a size that does not divide', ['--size', '66'], 'multiples'],
    ['an overlap as large as the window', ['--window', '4', '--overlap', '4'], 'that share 4'],
    ['no edit adapter', ['--stack', at('video.yaml')], 'reads a source image'],
    ['no frames', ['--max-frames', '0'], 'whole number'],
    ['no steps', ['--steps', '0'], 'whole number'],
    ['a guidance that is no number', ['--guidance', 'NaN'], 'number'],
    ['a missing stack', ['--stack', at('none.yaml')], 'does not exist'],
  ])('%s', (_, more, words) => {
    const { status, stderr } = edit(at('clip.webp'), at('bad.webp'), '--steps', '2', ...more);
    expect(stderr).toContain(words);
    expect(status).toBe(2);
    expect(existsSync(at('bad.webp'))).toBe(false);
  });

  test('the input as output, a missing input, a clip into a still', () => {
    expect(edit(at('clip.webp'), at('clip.webp'), ...quick).stderr).toContain('the input itself');
    expect(edit(at('gone.webp'), at('bad.webp'), ...quick).stderr).toContain('cannot be read');
    expect(edit(at('clip.webp'), at('bad.png'), ...quick).stderr).toContain('does not fit');
    expect(readdirSync(folder).filter((name) => /bad|^\.attune/.test(name))).toEqual([]);
  });
});
