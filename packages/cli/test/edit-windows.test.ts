/** A clip in windows, with a real stack: ways of joining them, and texts that change on the way. */

import { resolve } from 'node:path';

import {
  ddimPlan,
  editFrames,
  type EditRequest,
  ModelRunner,
  openStack,
  StackFile,
} from '@attune/core';
import { describe, expect, test } from 'vitest';

import { openSession } from '../src/session.ts';

const compose = resolve('test/parity/fixtures/compose/pocket');
const backbone = resolve('test/parity/fixtures/unet/pocket');
const SIDE = 32;
const { loader, runtime } = openSession();

async function opened(...names: readonly string[]): Promise<ModelRunner> {
  const adapters = names.map((use) => ({ use, from: `${compose}/${use}` }));
  const stack = StackFile.parse({ backbone, adapters });
  return new ModelRunner(await openStack(stack, process.cwd(), loader), runtime);
}

const still = await opened('edit');
const moving = { stack: await opened('edit', 'video'), stills: still };
const apart = { stack: still, stills: still };

const frame = (moment: number): Float32Array =>
  Float32Array.from({ length: 3 * SIDE * SIDE }, (_, i) =>
    Math.abs((i % SIDE) - 6 - 2 * moment) < 4 ? 0.9 : 0.2 + 0.1 * Math.floor(i / SIDE / SIDE),
  );
const clip = (count: number): Float32Array[] => Array.from({ length: count }, (_, i) => frame(i));

async function edited(
  models: typeof moving,
  frames: Iterable<Float32Array> | AsyncIterable<Float32Array>,
  more: Partial<EditRequest> = {},
): Promise<Float32Array[]> {
  const request: EditRequest = {
    instruction: 'make it golden',
    guidance: { text: 2, image: 1.5 },
    plan: ddimPlan(models.stack.model.schedule!, 2),
    seed: 1,
    size: [SIDE, SIDE],
    window: { size: 4, overlap: 2 },
    ...more,
  };
  const out: Float32Array[] = [];
  for await (const one of editFrames(models, frames, request)) out.push(one);
  return out;
}

const distance = (a: Float32Array, b: Float32Array): number =>
  a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i])), 0);

describe('ways of joining', () => {
  test.each([1, 3, 4, 5, 8, 9])(
    '%i frames come out once each, however they are joined',
    async (count) => {
      const ways = await Promise.all(
        (['correct', 'fuse', 'both'] as const).map((join) => edited(moving, clip(count), { join })),
      );
      for (const frames of ways) {
        expect(frames).toHaveLength(count);
        // What only the first window saw does not depend on how it is joined.
        const alone = count <= 4 ? count : 2;
        frames.slice(0, alone).forEach((one, i) => expect(distance(one, ways[0][i])).toBe(0));
      }
      if (count > 4) expect(distance(ways[1][2], ways[0][2])).toBeGreaterThan(1e-4);
      if (count > 4) expect(distance(ways[2][4], ways[1][4])).toBeGreaterThan(1e-4);
    },
  );

  test('fused frames lie between what the two windows make of them', async () => {
    const [first, joined] = [
      await edited(moving, clip(4), { join: 'fuse' }),
      await edited(moving, clip(6), { join: 'fuse' }),
    ];
    const kept = await edited(moving, clip(6), { join: 'correct' });
    // Frame 2 is two thirds the first window's, frame 3 one third.
    expect(distance(kept[2], first[2])).toBeLessThan(0.05);
    expect(distance(joined[2], first[2])).toBeGreaterThan(1e-4);
    const [near, far] = [distance(joined[2], first[2]), distance(joined[3], first[3])];
    expect(far).toBeGreaterThan(near);
  });

  test.each(['correct', 'fuse', 'both'] as const)(
    '%s reads and holds no more than it needs, however long the clip is',
    async (join) => {
      let read = 0;
      const stream = async function* () {
        for (; read < 24;) yield frame(read++ % 8);
      };
      const plan = ddimPlan(moving.stack.model.schedule!, 1);
      let out = 0;
      const request = { instruction: 'a', guidance: { text: 1, image: 1 }, plan, seed: 0 };
      for await (const one of editFrames(moving, stream(), {
        ...request,
        size: [SIDE, SIDE],
        window: { size: 4, overlap: 2 },
        join,
      })) {
        expect(one).toHaveLength(3 * SIDE * SIDE);
        expect(read - ++out).toBeLessThan(4);
      }
      expect(out).toBe(24);
    },
  );

  test('windows that share nothing, where the last one reaches back', async () => {
    for (const join of ['correct', 'fuse', 'both'] as const)
      expect(await edited(moving, clip(6), { join, window: { size: 4, overlap: 0 } })).toHaveLength(
        6,
      );
  });
});

describe('texts over time', () => {
  const later = [{ from: 3, instruction: 'make it icy', caption: 'ice' }];

  test('frames before the switch are those of the first text, frames after the fade those of the second', async () => {
    const texts = await edited(apart, clip(8), { later });
    const golden = await edited(apart, clip(8));
    const icy = await edited(apart, clip(8), { instruction: 'make it icy', caption: 'ice' });
    texts.forEach((one, i) => {
      const [a, b] = [distance(one, golden[i]), distance(one, icy[i])];
      if (i < 3) expect(a).toBeLessThan(1e-5);
      else if (i >= 5) expect(b).toBeLessThan(1e-5);
      else expect(Math.min(a, b)).toBeGreaterThan(1e-4);
      expect(distance(golden[i], icy[i])).toBeGreaterThan(1e-3);
    });
  });

  test('where frames mix, windows before the switch are untouched and the second text is seen after it', async () => {
    for (const join of ['correct', 'both'] as const) {
      const texts = await edited(moving, clip(10), {
        join,
        later: [{ from: 6, instruction: 'make it icy' }],
      });
      const golden = await edited(moving, clip(10), { join });
      for (let i = 0; i < 4; i++) expect(distance(texts[i], golden[i])).toBe(0);
      for (let i = 7; i < 10; i++) expect(distance(texts[i], golden[i])).toBeGreaterThan(1e-3);
    }
  });

  test('texts behind the end are told of', async () => {
    const notices: string[] = [];
    const onNotice = (text: string) => notices.push(text);
    const ends = [2, 3].map((from) => ({ from, instruction: 'make it icy' }));
    await edited(apart, clip(3), { later: ends, onNotice });
    expect(notices).toEqual(['the texts from frame 3 on were not used: the clip has 3 frames']);
  });

  test('the same text again changes nothing', async () => {
    const again = await edited(apart, clip(6), {
      later: [{ from: 3, instruction: 'make it golden' }],
    });
    const once = await edited(apart, clip(6));
    again.forEach((one, i) => expect(distance(one, once[i])).toBeLessThan(1e-5));
  });
});
