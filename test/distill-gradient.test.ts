/** The gradient of a rollout of a student, text encoder included, against central differences. */

import { lora } from '@attune/adapter-lora';
import { compose, materialize, type Model, nominalDims } from '@attune/core';
import { type F32Array, Rng } from '@attune/engine';
import { describe, expect, test } from 'vitest';

import { batchOf, latentShape, openStudent, plain, student } from './distill-scene.ts';

/** The student of the tests with its LoRA at other sites. */
function studentWith(targets: readonly string[]): Model {
  const align = lora({ name: 'align', rank: 2, train: true, targets });
  return materialize(compose(plain, align), { dims: nominalDims, seed: 4 });
}

describe('the gradient through k steps equals central differences', () => {
  const everywhere = ['unet.**.attn*.to_v', 'text_encoder.**.q_proj', 'text_encoder.**.v_proj'];
  test.each([
    { name: 'k = 1', k: 1 },
    { name: 'k = 2', k: 2 },
    { name: 'k = 3', k: 3 },
    { name: 'k = 4', k: 4 },
    { name: 'k = 2, the text encoder learns too', k: 2, targets: everywhere },
    {
      name: 'k = 3, the text encoder learns alone',
      k: 3,
      targets: everywhere.slice(1),
      remat: 'step',
    },
  ])(
    '$name',
    async ({ k, targets, remat = 'none' }) => {
      const own = openStudent(targets ? studentWith(targets) : student, k, remat);
      const reads = own.names.some((name) => name.includes('text_encoder'));
      expect(reads).toBe(targets !== undefined);
      const batch = await batchOf();
      const noise = Rng.of(2).normals(latentShape);
      const at = own.initial();
      for (const name of own.names)
        if (name.endsWith('lora_B.weight'))
          at[name] = Rng.of(5)
            .fork(name)
            .normals([at[name].length])
            .data.map((x) => 0.1 * x);
      const cotangent: F32Array = Rng.of(6).normals(latentShape);
      const score = async (params: Record<string, Float32Array>) => {
        const { rolled } = await own.generate(params, batch, noise, Rng.of(3));
        return rolled.latents.data.reduce((sum, x, i) => sum + x * cotangent.data[i], 0);
      };
      const { back } = await own.generate(at, batch, noise, Rng.of(3));
      const { grads } = await back(cotangent);
      const way = Object.fromEntries(
        own.names.map((name) => [name, Rng.of(7).fork(name).normals([at[name].length]).data]),
      );
      let exact = 0;
      for (const name of own.names)
        grads[name].data.forEach((g, i) => {
          exact += g * way[name][i];
        });
      const eps = 2e-3;
      const moved = (by: number) =>
        Object.fromEntries(
          own.names.map((name) => [name, at[name].map((x, i) => x + by * way[name][i])]),
        );
      const numeric = ((await score(moved(eps))) - (await score(moved(-eps)))) / (2 * eps);
      expect(Math.abs(exact - numeric) / Math.abs(numeric)).toBeLessThan(2e-2);
      await own.release();
    },
    180_000,
  );
});
