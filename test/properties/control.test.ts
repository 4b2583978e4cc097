/**
 * ControlNets as a change of their base, over random UNets: differences, and Control-LoRAs of every mixture of
 * low-rank, whole and absent tensors. Each does what the whole ControlNet does that it makes of the base.
 */

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { compose, inventory, loadModel, nominalDims } from '@attune/core';
import { f32, type NDArray, Rng, writeSafetensors } from '@attune/engine';
import { relativeError } from '@attune/engine/testing';
import { expect, test } from 'vitest';

import { product } from './algorithms.ts';
import { numbers } from './layers.ts';
import { originalControl, places } from './original-names.ts';
import {
  at,
  damaged,
  drawn,
  effect,
  loader,
  modelFolder,
  opened,
  randomUNet,
  type Tensors,
  verdictOn,
  written,
} from './wholes.ts';

const inEncoder = /^(conv_in|time_embedding|down_blocks|mid_block)\./;

/** A random UNet in a folder, the config of a ControlNet on it, and the shapes of that one's tensors. */
async function scene(name: string, rng: Rng) {
  const { attends, layers, config: unet } = randomUNet(rng.fork('unet'));
  const { path: backbone, weights } = await modelFolder(name, rng.fork('weights'), { unet });
  const { up_block_types: _up, ...encoder } = unet;
  const hints = Array.from({ length: 2 + rng.int(3) }, (_, i) => 4 * (1 + rng.fork(i).int(3)));
  const config = { ...encoder, conditioning_embedding_out_channels: hints };
  const kind = await loader.get('adapters', 'edit');
  const model = await loadModel(backbone);
  const adapter = kind.create({ name: 'own', model }, kind.options.parse(config));
  const { params } = inventory(compose(model, adapter), nominalDims);
  const shapes = [...params.values()].flatMap(({ name: full, shape }) =>
    full.startsWith('own.') ? [[full.slice(4), shape] as const] : [],
  );
  const known = places(attends, layers);
  const original = (own: string): string => originalControl(own, known, 2 * (hints.length - 1));
  return { backbone, weights, config, shapes, original };
}

type Scene = Awaited<ReturnType<typeof scene>>;

/** A file's tensors, and the whole ControlNet that they make. */
interface Form {
  readonly file: Tensors;
  readonly whole: Tensors;
}

/** base + change, of the base's shape. */
const sum = (base: NDArray, change: ArrayLike<number>): NDArray =>
  f32(
    Float32Array.from(base.data as Float32Array, (v, i) => v + change[i]),
    base.shape,
  );

function difference(rng: Rng, { weights, shapes, original }: Scene): Form {
  const [file, whole]: Record<string, NDArray>[] = [{ difference: f32([], [0]) }, {}];
  const prefix = rng.uniform() < 0.5 ? 'control_model.' : '';
  for (const [name, shape] of shapes) {
    const own = drawn(rng, name, shape);
    file[prefix + original(name)] = own;
    whole[name] = inEncoder.test(name) ? sum(weights[`unet.${name}`], own.data) : own;
  }
  return { file, whole };
}

function controlLora(rng: Rng, { weights, shapes, original }: Scene): Form {
  const [file, whole]: Record<string, NDArray>[] = [{ lora_controlnet: f32([], [0]) }, {}];
  for (const [name, shape] of shapes) {
    const own = rng.fork('form', name);
    const base = weights[`unet.${name}`];
    const way = inEncoder.test(name) ? own.uniform() : 1;
    if (way < 0.5 && shape.length > 1) {
      const [out, ...into] = shape;
      const rank = 1 + own.int(3);
      // Its authors' files have the kernel's ones beside `up`, or leave them out.
      const ones = own.uniform() < 0.5 ? into.slice(1).map(() => 1) : [];
      const up = drawn(own, 'up', [out, rank, ...ones]);
      const down = drawn(own, 'down', [rank, ...into]);
      const stem = original(name).replace(/\.weight$/, '');
      file[`${stem}.up`] = up;
      file[`${stem}.down`] = down;
      whole[name] = sum(base, product(numbers(up), numbers(down), out, rank));
    } else if (way < 0.7) whole[name] = base;
    else file[original(name)] = whole[name] = drawn(own, 'own', shape);
  }
  return { file, whole };
}

test.each<[string, (rng: Rng, scene: Scene) => Form, string, RegExp]>([
  ['differences', difference, 'controlnet difference', /^difference$/],
  // What such a file lacks of the encoder is the base's.
  [
    'Control-LoRAs',
    controlLora,
    'control-lora',
    /^lora_controlnet$|^(input_blocks|middle_block|time_embed)\.(?!.*\.(up|down)$)/,
  ],
])('6 %s', async (form, make, algorithm, optional) => {
  for (let k = 0; k < 6; k++) {
    const rng = Rng.of(54).fork(form, k);
    const own = await scene(`${algorithm}-${k}`, rng.fork('scene'));
    const { backbone, config, shapes, original } = own;
    const { file, whole } = make(rng.fork('form'), own);
    const write = (all: Tensors): string => written(`${algorithm}-${k}`, all);
    const path = write(file);
    expect(await verdictOn(path, backbone)).toMatchObject({
      verdict: 'loadable',
      kind: 'edit',
      dialect: 'ldm',
      algorithm,
    });
    const truth = at(`${algorithm}-${k}.whole`);
    mkdirSync(truth);
    const json = JSON.stringify({ _class_name: 'ControlNetModel', ...config });
    writeFileSync(join(truth, 'config.json'), json);
    writeSafetensors(join(truth, 'diffusion_pytorch_model.safetensors'), whole);
    const [got, want, before] = await Promise.all(
      [[path], [truth], []].map(async (from) =>
        effect(await opened(backbone, ...from.map((one) => ({ use: 'edit', from: one }))), 'unet'),
      ),
    );
    expect(relativeError(got, want)).toBeLessThan(1e-5);
    expect(relativeError(before, want)).toBeGreaterThan(1e-3);
    if (k > 1) continue;
    for (let i = 0; i < 3; i++)
      await damaged({
        rng: rng.fork('damage', i),
        tensors: file,
        optional,
        backbone,
        write,
        use: (from) => opened(backbone, { use: 'edit', from }),
        names: (key) =>
          shapes.flatMap(([name]) =>
            key.replace('control_model.', '').replace(/\.(up|down)$/, '.weight') === original(name)
              ? [name]
              : [],
          ),
      });
  }
});
