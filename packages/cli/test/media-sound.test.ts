/** The sound of a clip: carried over packet by packet, as long as the frames last. */

import { join } from 'node:path';

import { describe, expect, test } from 'vitest';

import { openMedia, readMedia, writeMedia } from '../src/media/index.ts';
import { scene, scratch } from './media-scenes.ts';
import { PACKET, RATE, soundClip, soundOf } from './sound-scenes.ts';

describe('sound beside the frames', () => {
  test('every packet at its time, byte by byte, and the frames as without', async () => {
    const folder = scratch();
    const [from, to, silent] = ['in.mp4', 'out.mp4', 'silent.mp4'].map((f) => join(folder, f));
    await soundClip(from, 16, 2);
    const { sound, ...source } = await openMedia(from);
    expect(source.audio).toBe(true);
    const { notices } = await writeMedia(to, source.frames(), { sound });
    expect(notices).toEqual([]);
    const [given, kept] = [await soundOf(from), await soundOf(to)];
    expect(given?.packets.length).toBeGreaterThan(80);
    expect(kept?.codec).toBe('aac');
    expect(kept?.config?.description).toEqual(given?.config?.description);
    const within = given!.packets.filter(({ at }) => at < 2);
    expect(kept?.packets.map(({ bytes }) => bytes)).toEqual(within.map(({ bytes }) => bytes));
    kept?.packets.forEach(({ at }, i) => expect(at).toBeCloseTo(within[i].at, 4));
    await writeMedia(silent, source.frames());
    expect(await soundOf(silent)).toBeUndefined();
    const [a, b] = [await readMedia(to), await readMedia(silent)];
    expect(a.frames).toEqual(b.frames);
    await writeMedia(`${folder}/again.mp4`, source.frames(), { sound });
    expect(await soundOf(`${folder}/again.mp4`)).toEqual(kept);
  });

  test('fewer frames cut it; sound that begins later stays late; sound shorter than the clip ends', async () => {
    const folder = scratch();
    const [from, to] = ['in.mp4', 'out.mp4'].map((f) => join(folder, f));
    await soundClip(from, 16, 1, 0.5);
    const { sound } = await openMedia(from);
    await writeMedia(to, scene(32, 32, 6), { sound });
    const cut = await soundOf(to);
    expect(cut?.packets[0].at).toBeCloseTo(0.5, 4);
    expect(cut?.packets.at(-1)?.at).toBeLessThan(0.75);
    expect(cut?.packets).toHaveLength(Math.ceil((0.25 * RATE) / PACKET));
    await writeMedia(to, scene(32, 32, 40), { sound });
    const packets = (await soundOf(from))!.packets.length;
    expect((await soundOf(to))?.packets).toHaveLength(packets);
    expect((await readMedia(to)).frames).toHaveLength(40);
  });

  test('a clip that begins inside the sound: what came before is cut away', async () => {
    const folder = scratch();
    const [from, to] = ['in.mp4', 'out.mp4'].map((f) => join(folder, f));
    await soundClip(from, 8, 1);
    const { sound } = await openMedia(from);
    const given = (await soundOf(from))!.packets;
    await writeMedia(to, scene(32, 32, 4), { sound: { ...sound!, from: 0.1 } });
    const kept = (await soundOf(to))!.packets;
    expect(kept[0].bytes).toBe(given[Math.floor(0.1 / (PACKET / RATE))].bytes);
    expect(kept[0].at).toBeCloseTo(given[4].at - 0.1, 3);
  });

  test('sound that begins after the last frame does no harm', async () => {
    const folder = scratch();
    const [from, to] = ['in.mp4', 'out.mp4'].map((f) => join(folder, f));
    await soundClip(from, 16, 0.5, 1);
    const { sound } = await openMedia(from);
    await writeMedia(to, scene(32, 32, 4), { sound });
    expect((await readMedia(to)).frames).toHaveLength(4);
    expect((await soundOf(to))?.packets ?? []).toEqual([]);
  });

  test('where it cannot go, a notice says so', async () => {
    const folder = scratch();
    const from = join(folder, 'in.mp4');
    await soundClip(from, 4, 1);
    const { sound } = await openMedia(from);
    const gif = await writeMedia(join(folder, 'a.gif'), scene(16, 16, 2), { sound });
    expect(gif.notices).toEqual([expect.stringContaining('only an mp4 holds sound')]);
    const gone = { path: join(folder, 'gone.mp4'), from: 0 };
    const { notices } = await writeMedia(join(folder, 'a.mp4'), scene(16, 16, 2), { sound: gone });
    expect(notices).toEqual([expect.stringContaining('the sound track is left out')]);
    expect(await soundOf(join(folder, 'a.mp4'))).toBeUndefined();
  });
});
