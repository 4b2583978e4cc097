/** PEFT's files: a config with patterns, rank-stabilised or not, with magnitudes or not. */

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { type NDArray, Rng, writeSafetensors } from '@attune/engine';
import { expect, test } from 'vitest';

import { drawer, magnified, type Made, plus, product } from './algorithms.ts';
import { base, type Layer, layers, numbers, shapeOf } from './layers.ts';
import { check, chosen, folder } from './mixtures.ts';

test.each(['folder', 'one file with a header'])('30 of PEFT: %s', async (form) => {
  for (let k = 0; k < 30; k++) {
    const rng = Rng.of(32).fork(form, k);
    const model = base(rng.fork('base'));
    const able = Object.keys(layers).filter((name) => layers[name].kind !== 'norm');
    const net = k % 2 ? 'unet' : 'text_encoder';
    const names = chosen(
      rng,
      able.filter((name) => name.startsWith(`${net}.`)),
    );
    const [stable, dora] = [rng.uniform() < 0.5, rng.uniform() < 0.4];
    const rank_pattern: Record<string, number> = {};
    const alpha_pattern: Record<string, number> = {};
    const [r, lora_alpha] = [1 + rng.int(4), 1 + rng.int(16)];
    const expected = new Map<string, Made>();
    const tensors: Record<string, NDArray> = {};
    for (const address of names) {
      const own = rng.fork(address);
      const layer = layers[address] as Exclude<Layer, { kind: 'norm' }>;
      const shape = shapeOf(layer);
      const path = address.slice(net.length + 1);
      const key = own.uniform() < 0.5 ? path : path.split('.').slice(-2).join('.');
      const rank = own.uniform() < 0.5 ? (rank_pattern[key] = 1 + own.int(4)) : r;
      const alpha = own.uniform() < 0.5 ? (alpha_pattern[key] = 1 + own.int(16)) : lora_alpha;
      const draw = drawer(own.fork('draw'));
      const ones = shape.slice(2).map(() => 1);
      const [a, down] = draw(rank, ...shape.slice(1));
      const [b, up] = draw(layer.out, rank, ...ones);
      const prefix = form === 'folder' ? `base_model.model.${path}` : address;
      tensors[`${prefix}.lora_A.weight`] = a;
      tensors[`${prefix}.lora_B.weight`] = b;
      const [weight, bias] = ['weight', 'bias'].map((leaf) =>
        numbers(model.weights.entry(`${address}.${leaf}`).load()),
      );
      const delta = product(up, down, layer.out, rank);
      let made = plus(weight, delta, alpha / (stable ? Math.sqrt(rank) : rank));
      if (dora) {
        const linearly = layer.kind === 'linear';
        const [array, magnitude] = linearly ? draw(layer.out) : draw(1, layer.out, ...ones);
        tensors[`${prefix}.lora_magnitude_vector${linearly ? '' : '.weight'}`] = array;
        made = magnified(made, magnitude, shape, 0);
      }
      expected.set(address, { leaves: {}, weight: made, bias });
    }
    const config = {
      peft_type: 'LORA',
      r,
      lora_alpha,
      rank_pattern,
      alpha_pattern,
      use_rslora: stable,
      use_dora: dora,
    };
    const place = join(folder, `peft-${form.length}-${k}`);
    if (form === 'folder') {
      mkdirSync(place);
      writeFileSync(join(place, 'adapter_config.json'), JSON.stringify(config));
      writeSafetensors(join(place, 'adapter_model.safetensors'), tensors);
    } else {
      const own = Object.fromEntries(
        Object.entries(config).map(([name, value]) => [`${net}.${name}`, value]),
      );
      writeSafetensors(`${place}.safetensors`, tensors, {
        lora_adapter_metadata: JSON.stringify(own),
      });
    }
    const dialect = await check(
      form === 'folder' ? place : `${place}.safetensors`,
      model,
      expected,
    );
    expect(dialect).toBe(form === 'folder' ? 'peft' : 'diffusers');
  }
});
