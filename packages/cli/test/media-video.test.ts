import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { AttuneError } from '@attune/engine';
import { describe, expect, test, vi } from 'vitest';

import {
  type Frame,
  loadPeers,
  type Media,
  openMedia,
  readMedia,
  type VideoTools,
  videoTools,
  writeMedia,
} from '../src/media/index.ts';
import { failure, pixel, psnr, scene, scratch } from './media-scenes.ts';

const absent = () =>
  Promise.reject(Object.assign(new Error('Cannot find package'), { code: 'ERR_MODULE_NOT_FOUND' }));
const noPeers: VideoTools = { ...videoTools, peers: () => loadPeers(absent) };
const nothing: VideoTools = { ...noPeers, ffmpeg: '/nowhere/ffmpeg' };
const onlyPeers: VideoTools = { ...videoTools, ffmpeg: '/nowhere/ffmpeg' };
const ffmpegIsHere = spawnSync(videoTools.ffmpeg, ['-version']).status === 0;

const ffmpeg = (...options: string[]) =>
  execFileSync(videoTools.ffmpeg, ['-v', 'error', '-y', ...options], { stdio: 'pipe' });

const mean = ({ data }: Frame, channel: number) =>
  data.reduce((sum, value, i) => (i % 3 === channel ? sum + value : sum), 0) / (data.length / 3);

describe('mp4 through the optional packages', () => {
  test('there and back: above 30 dB, fps kept, the same bytes twice', async () => {
    const folder = scratch();
    const path = join(folder, 'a.mp4');
    const frames = scene(64, 48, 24);
    const written = await writeMedia(path, frames, { tools: onlyPeers });
    expect(written).toMatchObject({ frames: 24, width: 64, height: 48, notices: [] });
    const source = await openMedia(path, { tools: onlyPeers });
    expect(source).toMatchObject({ format: 'mp4', kind: 'clip', frameCount: 24, audio: false });
    const media = await readMedia(path, { tools: onlyPeers });
    expect(media.fps).toBeCloseTo(8, 2);
    expect(media.frames).toHaveLength(24);
    const worst = Math.min(...frames.map((frame, i) => psnr(frame, media.frames[i])));
    expect(worst).toBeGreaterThan(30);
    for (const channel of [0, 1, 2])
      expect(Math.abs(mean(frames[5], channel) - mean(media.frames[5], channel))).toBeLessThan(1);
    const again = join(folder, 'b.mp4');
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 3_600_000 });
    await writeMedia(again, frames, { tools: onlyPeers });
    vi.useRealTimers();
    expect(readFileSync(again).equals(readFileSync(path))).toBe(true);
  });

  test('odd sizes grow by a repeated edge, and say so', async () => {
    const path = join(scratch(), 'odd.mp4');
    const frames = scene(37, 23, 5);
    const { notices } = await writeMedia(path, frames, { tools: onlyPeers });
    expect(notices).toEqual([expect.stringContaining('37×23 became 38×24')]);
    const media = await readMedia(path, { tools: onlyPeers });
    expect([media.width, media.height]).toEqual([38, 24]);
    expect(psnr(frames[2], media.frames[2])).toBeGreaterThan(28);
    const [last, grown] = [pixel(media.frames[0], 36, 10), pixel(media.frames[0], 37, 10)];
    last.forEach((value, i) => expect(Math.abs(value - grown[i])).toBeLessThan(12));
  });

  test('every frame keeps its own time', async () => {
    const path = join(scratch(), 'uneven.mp4');
    const delays = [40, 100, 40, 500, 33.3, 66.7];
    await writeMedia(path, scene(32, 32, 6), { delays, tools: onlyPeers });
    const media = await readMedia(path, { tools: onlyPeers });
    media.frames.forEach(({ delay }, i) => expect(delay).toBeCloseTo(delays[i], 0));
  });

  test('a stream of frames, read back in part', async () => {
    const path = join(scratch(), 'stream.mp4');
    const [frame] = scene(32, 32, 1);
    const stream = async function* () {
      for (let i = 0; i < 300; i++) yield { ...frame, data: frame.data.map((v) => v ^ (i & 15)) };
    };
    await writeMedia(path, stream(), { fps: 30, tools: onlyPeers });
    expect(await openMedia(path, { tools: onlyPeers })).toMatchObject({ frameCount: 300 });
    const media = await readMedia(path, { tools: onlyPeers, maxFrames: 7 });
    expect([media.frames.length, media.cut, Math.round(media.fps)]).toEqual([7, true, 30]);
  });

  test('cut off or scrambled: refused by name, never a crash', async () => {
    const folder = scratch();
    const path = join(folder, 'whole.mp4');
    await writeMedia(path, scene(64, 48, 30), { tools: onlyPeers });
    const bytes = readFileSync(path);
    const cut = join(folder, 'cut.mp4');
    for (const part of [0.005, 0.03, 0.3, 0.6, 0.9]) {
      writeFileSync(cut, bytes.subarray(0, Math.floor(bytes.length * part)));
      const error = await failure(() => readMedia(cut, { tools: onlyPeers }));
      expect([error.code, error.message]).toEqual(['BAD_FILE', expect.stringContaining(cut)]);
    }
    for (let i = 0; i < 60; i++) {
      const broken = Buffer.from(bytes);
      const reach = i < 30 ? 1200 : broken.length; // the index, then anywhere
      for (let j = 0; j < 6; j++) broken[(i * 7919 + j * 104_729) % reach] ^= 1 << (i % 8);
      writeFileSync(cut, broken);
      const end = await readMedia(cut, { tools: onlyPeers }).catch((error: unknown) => error);
      expect(AttuneError.is(end) || (end as Media).frames.length > 0).toBe(true);
    }
  }, 60_000);

  test('absent: what to install, and nothing left behind', async () => {
    const path = join(scratch(), 'a.mp4');
    const wanted = 'npm install mediabunny@1.61.0 @napi-rs/webcodecs@1.3.1';
    const write = await failure(() => writeMedia(path, scene(16, 16, 2), { tools: nothing }));
    expect(write.code).toBe('PEER_MISSING');
    expect(write.message).toContain('the optional package mediabunny is not installed');
    expect(write.message).toContain(wanted);
    expect((await failure(() => openMedia(path))).code).toBe('MISSING_FILE');
    await writeMedia(path, scene(16, 16, 2), { tools: onlyPeers });
    const read = await failure(() => readMedia(path, { tools: nothing }));
    expect([read.code, read.message]).toEqual(['PEER_MISSING', expect.stringContaining(wanted)]);
  });
});

describe.skipIf(!ffmpegIsHere)('with ffmpeg on the PATH', () => {
  const source = ['-f', 'lavfi', '-i', 'testsrc2=s=96x64:r=10:d=1.2'];

  test.each(['bt709', 'bt601'])(
    'B-frames come in order and %s colours are right',
    async (matrix) => {
      const folder = scratch();
      const path = join(folder, 'a.mp4');
      const colours = matrix === 'bt709' ? ',setparams=colorspace=bt709' : '';
      const wanted = scene(96, 64, 12);
      await writeMedia(join(folder, 'frames'), wanted);
      const filter = `scale=out_color_matrix=${matrix}:out_range=tv,format=yuv444p${colours}`;
      const frames = ['-framerate', '10', '-i', join(folder, 'frames', 'frame-%05d.png')];
      ffmpeg(...frames, '-vf', filter, '-c:v', 'libx264', '-crf', '4', path);
      const media = await readMedia(path, { tools: onlyPeers });
      expect(media.frames).toHaveLength(wanted.length);
      wanted.forEach((frame, i) => expect(psnr(frame, media.frames[i])).toBeGreaterThan(40));
    },
  );

  test.each([90, 180])('%i degrees and wide pixels as ffmpeg shows them', async (degrees) => {
    const folder = scratch();
    const [plain, path] = [join(folder, 'plain.mp4'), join(folder, 'turned.mp4')];
    await writeMedia(join(folder, 'a.mp4'), scene(96, 64, 8));
    ffmpeg('-i', join(folder, 'a.mp4'), '-vf', 'setsar=4/3', '-crf', '10', plain);
    ffmpeg('-i', plain, '-c', 'copy', '-metadata:s:v:0', `rotate=${degrees}`, path);
    const ours = await readMedia(path, { tools: onlyPeers });
    const theirs = await readMedia(path, { tools: noPeers });
    expect([ours.width, ours.height]).toEqual(degrees === 90 ? [64, 128] : [128, 64]);
    expect([theirs.width, theirs.height]).toEqual([ours.width, ours.height]);
    expect(theirs.frames).toHaveLength(ours.frames.length);
    expect(psnr(ours.frames[4], theirs.frames[4])).toBeGreaterThan(30);
  });

  test('webm is read, cut webm refused; without ffmpeg it is asked for', async () => {
    const folder = scratch();
    const path = join(folder, 'a.webm');
    ffmpeg(...source, '-c:v', 'libvpx', '-crf', '4', '-b:v', '4M', path);
    const media = await readMedia(path);
    expect(media).toMatchObject({ kind: 'clip', width: 96, height: 64, fps: 10 });
    expect(media.frames).toHaveLength(12);
    expect((await readMedia(path, { maxFrames: 3 })).frames).toHaveLength(3);
    const error = await failure(() => readMedia(path, { tools: nothing }));
    expect(error.message).toContain('ffprobe cannot be found');
    const bytes = readFileSync(path);
    writeFileSync(path, bytes.subarray(0, bytes.length / 2));
    expect((await failure(() => readMedia(path))).code).toBe('BAD_FILE');
  });

  test('mp4 written by ffmpeg where the packages are absent', async () => {
    const path = join(scratch(), 'a.mp4');
    const frames = scene(37, 23, 9);
    const { notices } = await writeMedia(path, frames, { tools: noPeers, metadata: { seed: '3' } });
    expect(notices.join('\n')).toContain('written by ffmpeg at 8 frames a second');
    const media = await readMedia(path, { tools: onlyPeers });
    expect([media.frames.length, media.width, media.height]).toEqual([9, 38, 24]);
    frames.forEach((frame, i) => expect(psnr(frame, media.frames[i])).toBeGreaterThan(28));
  });

  test('another codec in an mp4 goes to ffmpeg', async () => {
    const path = join(scratch(), 'a.mp4');
    ffmpeg(...source, '-c:v', 'mpeg4', '-q:v', '2', path);
    expect((await readMedia(path)).frames).toHaveLength(12);
    const error = await failure(() => readMedia(path, { tools: onlyPeers }));
    expect(error.message).toContain('H.264 only');
  });

  test('a playlist that names other files is not followed', async () => {
    const folder = scratch();
    const path = join(folder, 'list.mp4');
    writeFileSync(path, '#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n');
    expect((await failure(() => readMedia(path))).code).toBe('UNSUPPORTED_MEDIA');
  });
});
