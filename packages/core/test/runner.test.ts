/** A model's autoencoder as a runner offers it: pictures in [0, 1] on both sides. */

import { loadModel, ModelRunner } from '@attune/core';
import { type F32Array, f32, OrtRuntime, Rng } from '@attune/engine';
import { relativeError } from '@attune/engine/testing';
import { expect, test } from 'vitest';

test('pictures are in [0, 1], the autoencoder’s own pixels in [-1, 1]', async () => {
  const model = await loadModel('test/parity/fixtures/unet/pocket');
  const runner = new ModelRunner(model, new OrtRuntime({ threads: 1 }));
  const { scale, shift } = runner.latents;
  const shape = [2, 3, 16, 16];
  const rng = Rng.of(3);
  const pictures = f32(
    Float32Array.from({ length: 2 * 3 * 256 }, () => rng.uniform()),
    shape,
  );
  const pixels = f32(
    pictures.data.map((value) => 2 * value - 1),
    shape,
  );
  const dims = { B: 2, F: 1, H: 16, W: 16 };
  const raw = (await runner.run({ net: 'vae_encoder', dims }, { pixels })).latents as F32Array;
  const latents = await runner.encodeImages(pictures);
  const wanted = { ...raw, data: raw.data.map((value) => (value - shift) * scale) };
  expect(relativeError(latents, wanted)).toBeLessThan(1e-6);

  const [, , H, W] = raw.shape;
  const net = { net: 'vae_decoder', dims: { ...dims, H, W } };
  const own = (await runner.run(net, { latents: raw })).pixels as F32Array;
  const decoded = await runner.decodeLatents(latents);
  const seen = { ...own, data: own.data.map((value) => (value + 1) / 2) };
  expect(relativeError(decoded, seen)).toBeLessThan(1e-5);
  await runner.release();
});
