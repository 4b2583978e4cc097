import {
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';

import sharp from 'sharp';
import { describe, expect, test } from 'vitest';

import { loadPeers, readNotes, writeMedia } from '../src/media/index.ts';
import { assertWritable } from '../src/media/stage.ts';
import { staged } from '../src/output.ts';
import { failure, scene, scratch } from './media-scenes.ts';

describe('where results may go', () => {
  test('not onto the input, by whatever name', async () => {
    const folder = scratch();
    const input = join(folder, 'in.png');
    await writeMedia(input, scene(8, 8, 1));
    symlinkSync(input, join(folder, 'soft.png'));
    linkSync(input, join(folder, 'hard.png'));
    for (const name of [
      'in.png',
      'soft.png',
      'hard.png',
      '../' + folder.split('/').at(-1) + '/in.png',
    ]) {
      const error = await failure(() => assertWritable(join(folder, name), [input]));
      expect(error.message).toContain('this is the input itself');
    }
    assertWritable(join(folder, 'other.png'), [input]);
    const before = readFileSync(input);
    const options = { inputs: [input] };
    expect((await failure(() => writeMedia(input, scene(8, 8, 1), options))).code).toBe(
      'BAD_OUTPUT',
    );
    expect(readFileSync(input).equals(before)).toBe(true);
  });

  test('not into a folder of input frames', async () => {
    const folder = scratch();
    const frames = join(folder, 'frames');
    await writeMedia(frames, scene(8, 8, 2));
    for (const out of ['frames', 'frames/', 'frames/out', 'frames/out.png'])
      expect((await failure(() => assertWritable(join(folder, out), [frames]))).code).toBe(
        'BAD_OUTPUT',
      );
    assertWritable(join(folder, 'frames2'), [frames]);
    assertWritable(join(folder, '..frames.png'), [frames]);
  });

  test('unknown extension, no parent, things in the way', async () => {
    const folder = scratch();
    mkdirSync(join(folder, 'dir.mp4'));
    mkdirSync(join(folder, 'full'));
    writeFileSync(join(folder, 'full', 'x'), '');
    writeFileSync(join(folder, 'plain'), '');
    const text = async (out: string) =>
      (await failure(() => assertWritable(join(folder, out)))).message.replace(folder, '…');
    expect(await text('a.avi')).toMatchInlineSnapshot(
      `"…/a.avi: attune does not write .avi files; use .mp4, .gif, .webp, .png, .jpg, or a folder (no extension, or a final /)."`,
    );
    expect(await text('no/such/a.mp4')).toContain('create it, or write elsewhere');
    expect(await text('dir.mp4')).toContain('this is not a file');
    expect(await text('full')).toContain('the folder is not empty');
    expect(await text('plain')).toContain('a file stands where the folder');
    assertWritable(join(folder, 'A.MP4'));
  });
});

function* stopping() {
  yield* scene(16, 16, 3);
  throw new Error('the model stopped');
}

describe('all or nothing', () => {
  test('a full disk: the older file stays, nothing else', async () => {
    const folder = scratch();
    const out = join(folder, 'a.png');
    await writeMedia(out, scene(8, 8, 1));
    const before = readFileSync(out);
    const error = await failure(() =>
      staged(out, async (temp) => {
        writeFileSync(temp, 'half');
        throw Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' });
      }),
    );
    expect([error.code, error.message]).toEqual([
      'WRITE_FAILED',
      expect.stringContaining('the disk is full'),
    ]);
    expect(readFileSync(out).equals(before)).toBe(true);
    expect(readdirSync(folder)).toEqual(['a.png']);
  });

  test.each(['a.mp4', 'a.gif', 'a.webp', 'frames'])(
    'frames that fail midway leave no %s',
    async (name) => {
      const folder = scratch();
      const error = await failure(() => writeMedia(join(folder, name), stopping()));
      expect(error.message).toContain('the model stopped');
      expect(readdirSync(folder)).toEqual([]);
    },
  );

  test('no frames, two sizes, wrong bytes, wrong delays, a clip as a still', async () => {
    const folder = scratch();
    const code = async (
      name: string,
      ...[frames, options]: Parameters<typeof writeMedia> extends [string, ...infer R] ? R : never
    ) => (await failure(() => writeMedia(join(folder, name), frames, options))).code;
    const [frame] = scene(8, 8, 1);
    for (const name of ['a.mp4', 'a.gif', 'a.webp', 'a.png', 'frames'])
      expect(await code(name, [])).toBe('NO_FRAMES');
    expect(await code('a.mp4', [frame, ...scene(8, 6, 1)])).toBe('BAD_ARGUMENT');
    expect(await code('a.gif', [{ ...frame, width: 7 }])).toBe('BAD_ARGUMENT');
    expect(await code('a.gif', [frame], { delays: [1, 2] })).toBe('BAD_ARGUMENT');
    expect(await code('a.gif', [frame], { fps: 0 })).toBe('BAD_ARGUMENT');
    expect(await code('a.gif', [frame], { delays: [Number.NaN] })).toBe('BAD_ARGUMENT');
    expect(await code('a.png', [frame, frame])).toBe('BAD_OUTPUT');
    expect(readdirSync(folder)).toEqual([]);
  });
});

describe('settings and seeds travel inside the file', () => {
  test.each(['a.png', 'a.jpg', 'a.webp', 'b.webp', 'b.gif', 'b.mp4'])(
    '%s is read again',
    async (name) => {
      const path = join(scratch(), name);
      const frames = scene(8, 8, name.startsWith('b') ? 3 : 1);
      const made = {
        instruction: 'a “red” disc {"→"} blue',
        seed: '7',
        long: 'x'.repeat(700),
        attune: '1',
      };
      await writeMedia(path, frames, { metadata: made });
      expect(await readNotes(path)).toEqual(made);
      await writeMedia(path, frames, { metadata: { seed: '7' } });
      expect(await readNotes(path)).toBeUndefined();
      const bytes = readFileSync(path);
      for (let end = 0; end < bytes.length; end += 7) {
        writeFileSync(path, bytes.subarray(0, end));
        expect(await readNotes(path)).toBeUndefined();
      }
    },
  );

  const metadata = { prompt: 'a “red” disc → blue', seed: '7' };
  const line = String.raw`{"prompt":"a \u201cred\u201d disc \u2192 blue","seed":"7"}`;

  test('png, each under its own name', async () => {
    const path = join(scratch(), 'a.png');
    await writeMedia(path, scene(8, 8, 1), { metadata });
    const { comments } = await sharp(readFileSync(path)).metadata();
    expect(comments).toEqual(
      expect.arrayContaining(
        Object.entries(metadata).map(([keyword, text]) => ({ keyword, text })),
      ),
    );
    const error = await failure(() =>
      writeMedia(path, scene(8, 8, 1), { metadata: { [' x']: '' } }),
    );
    expect(error.code).toBe('BAD_ARGUMENT');
  });

  test.each(['a.jpg', 'a.webp', 'b.webp'])('%s, as EXIF', async (name) => {
    const path = join(scratch(), name);
    await writeMedia(path, scene(8, 8, name === 'b.webp' ? 3 : 1), { metadata });
    const { exif, pages } = await sharp(readFileSync(path)).metadata();
    expect(exif?.toString('latin1')).toContain(line);
    expect(pages ?? 1).toBe(name === 'b.webp' ? 3 : 1);
  });

  test('gif, as a comment; the frames stay readable', async () => {
    const path = join(scratch(), 'a.gif');
    const long = { ...metadata, stack: 'x'.repeat(600) };
    await writeMedia(path, scene(8, 8, 3), { metadata: long });
    const bytes = readFileSync(path);
    expect(bytes.toString('latin1')).toContain(line.slice(0, 40));
    expect((await sharp(bytes).metadata()).pages).toBe(3);
  });

  test('mp4, as its comment', async () => {
    const path = join(scratch(), 'a.mp4');
    await writeMedia(path, scene(8, 8, 3), { metadata });
    const peers = await loadPeers();
    if (typeof peers === 'string') throw new Error(peers);
    const { Input, FilePathSource, MP4 } = peers.bunny;
    const input = new Input({ source: new FilePathSource(path), formats: [MP4] });
    expect((await input.getMetadataTags()).comment).toBe(line);
    input.dispose();
    expect(existsSync(path)).toBe(true);
  });
});
