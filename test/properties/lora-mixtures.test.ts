/**
 * Files of the LoRA family with random modules, ranks, alphas and algorithms, many in one file: written,
 * detected, loaded, and the weight that each layer then has, against formulas of float64 written here.
 */

import { join } from 'node:path';

import { type NDArray, Rng, writeSafetensors } from '@attune/engine';
import { expect, test } from 'vitest';

import { type Made, module } from './algorithms.ts';
import { base, layers, numbers } from './layers.ts';
import { check, chosen, flat, folder } from './mixtures.ts';

test('40 files of LyCORIS and kohya, algorithms mixed', async () => {
  for (let k = 0; k < 40; k++) {
    const rng = Rng.of(31).fork(k);
    const model = base(rng.fork('base'));
    const bare = k % 4 === 3; // LyCORIS by itself names the UNet alone
    const names = chosen(
      rng,
      Object.keys(layers).filter((name) => !bare || name.startsWith('unet.')),
    );
    const expected = new Map<string, Made>();
    const tensors: Record<string, NDArray> = {};
    for (const address of names) {
      const [weight, bias] = ['weight', 'bias'].map((leaf) =>
        numbers(model.weights.entry(`${address}.${leaf}`).load()),
      );
      const made = module({ rng: rng.fork(address), layer: layers[address], weight, bias });
      expected.set(address, made);
      const name = bare ? flat(address).replace('lora_unet', 'lycoris') : flat(address);
      for (const [leaf, array] of Object.entries(made.leaves)) tensors[`${name}.${leaf}`] = array;
    }
    const path = join(folder, `mixed-${k}.safetensors`);
    writeSafetensors(path, tensors);
    expect(await check(path, model, expected)).toBe(bare ? 'lycoris' : 'kohya');
  }
});
