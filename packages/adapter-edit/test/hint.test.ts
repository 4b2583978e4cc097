/** What a ControlNet's config says of its hint: the order of channels and the range it was trained with. */

import { compile, compose, materialize, standingFeeds } from '@attune/core';
import { randomised, tinyModel, tinyUNet } from '@attune/core/testing';
import { type F32Array, OrtRuntime, Rng } from '@attune/engine';
import { relativeError } from '@attune/engine/testing';
import { expect, test } from 'vitest';

import { edit, EditConfig } from '../src/index.ts';

const dims = { B: 1, F: 1, H: 4, W: 4, L: 5 };
const rng = Rng.of(3);
const image = rng.normals([1, 3, 8, 8]);
const others = {
  sample: rng.normals([1, 4, 4, 4]),
  timestep: { dtype: 'f32', shape: [1], data: Float32Array.of(400) } as const,
  encoder_hidden_states: rng.normals([1, 5, 12]),
};

async function run(options: Partial<EditConfig>, hint: F32Array): Promise<F32Array> {
  const config = EditConfig.parse({
    ...tinyUNet,
    conditioning_embedding_out_channels: [4, 8],
    ...options,
  });
  const model = randomised(materialize(compose(tinyModel(), edit({ config })), { dims }), 5);
  const program = compile(
    model,
    { net: 'unet', dims },
    { runtime: new OrtRuntime({ threads: 1 }) },
  );
  const feeds = { ...others, 'edit.image': hint, ...standingFeeds(model, program) };
  const { sample } = await program.run(feeds);
  await program.release();
  return sample as F32Array;
}

const turned: F32Array = {
  ...image,
  data: Float32Array.from(
    image.data,
    (_, i) => image.data[(2 - Math.floor(i / 64)) * 64 + (i % 64)],
  ),
};
const stretched: F32Array = { ...image, data: image.data.map((value) => 2 * value - 1) };

test.each([
  ['bgr', { controlnet_conditioning_channel_order: 'bgr' as const }, turned],
  ['signed', { hint_range: 'signed' as const }, stretched],
])('%s', async (_, options, same) => {
  const result = await run(options, image);
  expect(relativeError(result, await run({}, same))).toBeLessThan(1e-6);
  expect(relativeError(result, await run({}, image))).toBeGreaterThan(1e-4);
});
