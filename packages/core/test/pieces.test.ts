/** Frames in pieces: the same frames as at once, in their order, of every clip. */

import { type F32Array, f32, OrtRuntime, Rng } from '@attune/engine';
import { relativeError } from '@attune/engine/testing';
import { expect, test } from 'vitest';

import { generate, loadModel, ModelRunner } from '../src/index.ts';
import { inPieces } from '../src/sample/frames.ts';

/** Frames [count, 2] whose values are their numbers. */
const numbered = (count: number): F32Array =>
  f32(
    Array.from({ length: 2 * count }, (_, i) => i >> 1),
    [count, 2],
  );

test.each([
  { count: 10, clips: 2, most: 2, pieces: [0, 2, 4] },
  { count: 9, clips: 3, most: 3, pieces: [0] },
  { count: 7, clips: 1, most: 3, pieces: [0, 3, 6] },
])('$count frames of $clips clips, $most at once', async ({ count, clips, most, pieces }) => {
  const starts: number[] = [];
  const twice = await inPieces(numbered(count), { clips, most }, async (some, start) => {
    starts.push(start);
    const own = Math.min(most, count / clips - start);
    expect(some.shape).toEqual([clips * own, 2]);
    // the same frames of every clip
    const wanted = Array.from({ length: clips }, (_, b) => (b * count) / clips + start);
    expect(wanted.map((_, b) => some.data[2 * b * own])).toEqual(wanted);
    return f32(
      some.data.map((x) => 2 * x),
      some.shape,
    );
  });
  expect(starts).toEqual(pieces);
  expect(twice).toEqual(
    f32(
      numbered(count).data.map((x) => 2 * x),
      [count, 2],
    ),
  );
});

test('generated frames that nothing mixes do not depend on what is done beside them', async () => {
  const model = await loadModel('test/parity/fixtures/unet/pocket');
  const runner = new ModelRunner(model, new OrtRuntime({ threads: 1 }));
  const steps: [number, number][] = [];
  const options = { steps: 2, guidance: 1, side: 8, frames: 40 };
  const both = await generate(runner, ['a cat', 'a dog'], {
    ...options,
    rng: Rng.of(3),
    onStep: (done, of) => steps.push([done, of]),
  });
  // two pieces of 2 · 32 and 2 · 8 frames, and one of 40
  expect(steps).toEqual([1, 2, 3, 4].map((done) => [done, 4]));
  const alone = await generate(runner, ['a cat'], { ...options, rng: Rng.of(3) });
  expect(both.latents.shape).toEqual([80, ...alone.latents.shape.slice(1)]);
  const first = f32(both.latents.data.subarray(0, alone.latents.data.length), alone.latents.shape);
  expect(relativeError(first, alone.latents)).toBeLessThan(1e-5);
  await runner.release();
});
