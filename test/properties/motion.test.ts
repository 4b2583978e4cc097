/**
 * Motion modules as AnimateDiff saves them, v1 to v3, bare, of a wrapped model and inside a training's state:
 * over random UNets each does what the same tensors do in diffusers' layout.
 */

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { compose, inventory, loadModel, nominalDims } from '@attune/core';
import { f32, type NDArray, Rng, writeSafetensors } from '@attune/engine';
import { relativeError } from '@attune/engine/testing';
import { expect, test } from 'vitest';

import { originalMotion } from './original-names.ts';
import { type Saved, torchSave } from './torch-save.ts';
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
} from './wholes.ts';

/** Releases: how many frames their tables reach, and whether the middle has a module. */
const releases = {
  v1: { motion_max_seq_length: 24, use_motion_mid_block: false },
  v2: { motion_max_seq_length: 32, use_motion_mid_block: true },
  v3: { motion_max_seq_length: 32, use_motion_mid_block: false },
};

/** Containers of the same tensors. */
const containers: Readonly<Record<string, (path: string, tensors: Tensors) => string>> = {
  bare: (path, tensors) => {
    writeSafetensors(`${path}.safetensors`, tensors);
    return `${path}.safetensors`;
  },
  'of a wrapped model': (path, tensors) => containers.bare(path, parallel(tensors)),
  'in a training state': (path, tensors) => {
    const config: Saved = { use_inflated_groupnorm: 1, mode: 'motion' };
    const state: Saved = { epoch: 1, global_step: 500, animatediff_config: config };
    torchSave(`${path}.ckpt`, { ...state, state_dict: tensors });
    return `${path}.ckpt`;
  },
  'of a wrapped model, in a training state': (path, tensors) =>
    containers['in a training state'](path, parallel(tensors)),
};

/** As a model in DistributedDataParallel names its parameters. */
const parallel = (tensors: Tensors): Tensors =>
  Object.fromEntries(Object.entries(tensors).map(([key, array]) => [`module.${key}`, array]));

/** A random UNet in a folder, and random modules on it, under diffusers' names. */
async function scene(name: string, rng: Rng, release: (typeof releases)[keyof typeof releases]) {
  // Numbers of heads and groups are told by no file: AnimateDiff's own are 8 and 32.
  const { config: unet } = randomUNet(rng.fork('unet'), { unit: 32, more: { norm_num_groups: 4 } });
  const { path: backbone } = await modelFolder(name, rng.fork('weights'), { unet });
  const config = {
    block_out_channels: unet.block_out_channels,
    motion_layers_per_block: unet.layers_per_block,
    motion_transformer_layers_per_block: 1 + rng.int(2),
    ...release,
  };
  const kind = await loader.get('adapters', 'video');
  const model = await loadModel(backbone);
  const adapter = kind.create({ name: 'own', model }, kind.options.parse(config));
  const { params } = inventory(compose(model, adapter), nominalDims);
  const modules: Record<string, NDArray> = {};
  for (const { name: full, shape } of params.values()) {
    if (!full.startsWith('own.')) continue;
    const own = full.slice(4);
    modules[own] = drawn(rng, own, shape);
    const [, block] = /^(.+\.transformer_blocks\.\d+)\.norm1\.weight$/.exec(own) ?? [];
    if (block === undefined) continue;
    // Learned, so that no formula could stand in for it.
    const table = `${block}.pos_embed.pe`;
    modules[table] = rng.fork(table).normals([1, release.motion_max_seq_length, shape[0]]);
  }
  return { backbone, config, modules };
}

/** Under AnimateDiff's names, with a table in every attention. */
const named = (modules: Tensors): Tensors =>
  Object.fromEntries(
    Object.entries(modules).flatMap(([name, array]) => {
      const own = originalMotion(name);
      const second = own.replace('.attention_blocks.0.pos', '.attention_blocks.1.pos');
      return [...new Set([own, ...(own.endsWith('.pe') ? [second] : [])])].map((key) => [
        key,
        array,
      ]);
    }),
  );

test.each(Object.keys(containers))('3 modules %s', async (container) => {
  for (const [k, version] of (['v1', 'v2', 'v3'] as const).entries()) {
    const rng = Rng.of(55).fork(container, version);
    const place = `${version}-${container.replaceAll(/\W/g, '')}`;
    const { backbone, config, modules } = await scene(place, rng.fork('scene'), releases[version]);
    const tensors = named(modules);
    const write = (all: Tensors): string => containers[container](at(place), all);
    const path = write(tensors);
    const verdict = await verdictOn(path, backbone);
    expect(verdict).toMatchObject({ verdict: 'loadable', kind: 'video', dialect: 'animatediff' });
    const truth = at(`${place}.truth`);
    mkdirSync(truth);
    const json = JSON.stringify({ _class_name: 'MotionAdapter', ...config });
    writeFileSync(join(truth, 'config.json'), json);
    writeSafetensors(join(truth, 'diffusion_pytorch_model.safetensors'), modules);
    const norm = rng.pick(['all_frames', 'per_frame']);
    const [got, want, before] = await Promise.all(
      [[path], [truth], []].map(async (from) =>
        effect(
          await opened(backbone, ...from.map((one) => ({ use: 'video', from: one, norm }))),
          'unet',
        ),
      ),
    );
    expect(relativeError(got, want)).toBe(0);
    expect(relativeError(before, want)).toBeGreaterThan(1e-3);
    if (version !== 'v3') continue;
    await damaged({
      rng: rng.fork('damage', k),
      tensors,
      // The second attention's table is a copy of the first's.
      optional: /\.attention_blocks\.1\.pos_encoder\.pe$/,
      backbone,
      write,
      use: (from) => opened(backbone, { use: 'video', from }),
      names: (key) => Object.keys(modules).filter((name) => originalMotion(name) === key),
    });
  }
});

test('two tables that differ are refused by their names', async () => {
  const rng = Rng.of(56);
  const { backbone, modules } = await scene('tables', rng, releases.v3);
  const tensors = named(modules);
  const key = Object.keys(tensors).find((name) => name.includes('attention_blocks.1.pos'))!;
  const { shape } = tensors[key];
  const other = f32(rng.normals(shape).data, shape);
  const path = containers.bare(at('tables'), { ...tensors, [key]: other });
  await expect(opened(backbone, { use: 'video', from: path })).rejects.toThrow(key);
  expect((await verdictOn(path, backbone)).reason).toContain(key);
});
