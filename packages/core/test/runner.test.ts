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

const request = (H: number) => ({ net: 'vae_decoder', dims: { B: 1, F: 1, H, W: 2 ** 10 } });

test('many pictures are as many calls, and the same pictures', async () => {
  const model = await loadModel('test/parity/fixtures/unet/pocket');
  const runner = new ModelRunner(model, new OrtRuntime({ threads: 1 }));
  const shape = [3, 4, 256, 256];
  const latents = Rng.of(4).normals(shape);
  const decoded = await runner.decodeLatents(latents);
  const { scale, shift } = runner.latents;
  const raw = { ...latents, data: latents.data.map((value) => value / scale + shift) };
  const dims = { B: 3, F: 1, H: 256, W: 256 };
  const { pixels } = await runner.run({ net: 'vae_decoder', dims }, { latents: raw });
  const want = pixels.data as Float32Array;
  expect(decoded.shape).toEqual(pixels.shape);
  const seen = { ...decoded, data: want.map((value) => (value + 1) / 2) };
  expect(relativeError(decoded, seen)).toBeLessThan(1e-5);
  await runner.release();
});

test('what no run could hold is refused before it runs', async () => {
  const model = await loadModel('test/parity/fixtures/unet/pocket');
  const runner = new ModelRunner(model, new OrtRuntime({ threads: 1 }));
  expect(runner.program(request(16)).program.peak).toBeGreaterThan(4 * 3 * 16 * 2 ** 10);
  expect(() => runner.program(request(2 ** 20))).toThrow(
    /One call of vae_decoder for 1 pictures of 1048576 × 1024 would hold .* GiB, this machine has .*: make fewer/,
  );
  await runner.release();
});
