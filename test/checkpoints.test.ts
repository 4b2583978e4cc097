/** Checkpoints in one file: names over random architectures, and the two copies of a UNet that some hold. */

import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import {
  compose,
  findPlugins,
  fromLdm,
  inventory,
  ldmLayers,
  loadModel,
  lockOf,
  type Model,
  nominalDims,
  openStack,
  PluginLoader,
  readAdapterFile,
  readStackParts,
  StackFile,
  toLdm,
  unet,
  UNetConfig,
} from '@attune/core';
import { f32, HashBook, type NDArray, Rng, toF32, Weights, writeSafetensors } from '@attune/engine';
import { expect, test } from 'vitest';

import { inspect } from '../packages/cli/src/inspect/verdict.ts';
import { original, originalControl, originalMotion, places } from './properties/original-names.ts';

const fixtures = resolve('test/parity/fixtures/checkpoints');
const folder = mkdtempSync(join(tmpdir(), 'checkpoints-'));
const loader = new PluginLoader(findPlugins('packages/cli'));

test('60 random UNets: every name there and back, as the original code counts', () => {
  for (let k = 0; k < 60; k++) {
    const rng = Rng.of(41).fork(k);
    const levels = 1 + rng.int(4);
    const layers = 1 + rng.int(3);
    const attends = Array.from(
      { length: levels },
      (_, i) => rng.fork('attention', i).uniform() < 0.6,
    );
    const config = UNetConfig.parse({
      block_out_channels: attends.map((_, i) => 4 * (1 + rng.fork('width', i).int(3))),
      down_block_types: attends.map((on) => (on ? 'CrossAttnDownBlock2D' : 'DownBlock2D')),
      up_block_types: attends.toReversed().map((on) => (on ? 'CrossAttnUpBlock2D' : 'UpBlock2D')),
      layers_per_block: layers,
      transformer_layers_per_block: 1 + rng.int(2),
      use_linear_projection: rng.uniform() < 0.5,
      cross_attention_dim: 8,
      attention_head_dim: 2,
      norm_num_groups: 2,
    });
    const bare: Model = {
      nets: { unet: unet(config) },
      weights: Weights.fromArrays({}),
      adapters: [],
    };
    const names = [...inventory(bare, nominalDims).params.keys()].map((name) =>
      name.slice('unet.'.length),
    );
    const known = places(attends, layers);
    const layout = { layers, attends: (up: number) => attends.toReversed()[up] };
    const others = names.map((name) => {
      const want = original(name, known)!;
      expect({ name, ldm: toLdm(name, layout) }).toEqual({ name, ldm: want });
      return want;
    });
    const weights = Weights.fromArrays(
      Object.fromEntries(others.map((name) => [name, f32([1], [1])])),
    );
    expect(ldmLayers(weights)).toBe(layers);
    expect(others.map((name) => fromLdm(name, ldmLayers(weights)))).toEqual(names);
  }
});

const single = `${fixtures}/sd1.ckpt`;
const average = (name: string): string =>
  `model_ema.${name.slice('model.'.length).replaceAll('.', '')}`;

/** sd1.ckpt with a moving average: twice its UNet. */
function both(
  name: string,
  change: (tensors: Map<string, NDArray>) => void = () => undefined,
): string {
  const weights = Weights.fromFile(single);
  const tensors = new Map([...weights.names()].map((key) => [key, weights.entry(key).load()]));
  for (const [key, value] of Array.from(tensors))
    if (key.startsWith('model.diffusion_model.'))
      // The names that the fixture's script wrote are there to be found again.
      tensors.set(
        average(key),
        f32(
          toF32(value).data.map((v) => 2 * v),
          value.shape,
        ),
      );
  expect(tensors.size).toBe(weights.size);
  change(tensors);
  const path = join(folder, name);
  writeSafetensors(path, tensors);
  return path;
}

const withoutAverage = (tensors: Map<string, NDArray>): void => {
  for (const key of tensors.keys()) if (key.startsWith('model_ema.')) tensors.delete(key);
};

const config = `${fixtures}/sd1.configs`;

test('the moving average in the place of the UNet, where the stack says so', async () => {
  const path = both('both.safetensors');
  const [last, plain, ema] = await Promise.all([
    loadModel(single, { config }),
    loadModel(path, { config }),
    openStack(StackFile.parse({ backbone: path, config, weights: 'ema' }), '.', loader),
  ]);
  const names = [...last.weights.names()].toSorted();
  for (const model of [plain, ema]) expect([...model.weights.names()].toSorted()).toEqual(names);
  for (const name of names) {
    const [a, b, c] = [last, plain, ema].map(
      ({ weights }) => toF32(weights.entry(name).load()).data,
    );
    expect(b).toEqual(a); // the default: as trained last
    expect(c).toEqual(name.startsWith('unet.') ? a.map((v) => 2 * v) : a);
  }
});

test('the lock knows which copy it was, inspect that there are two', async () => {
  const path = both('locked.safetensors');
  const lock = async (more: object) => {
    const stack = StackFile.parse({ backbone: path, config, ...more });
    return lockOf(
      stack,
      await readStackParts(stack, '.', loader),
      loader,
      new HashBook({ verify: true }),
    );
  };
  expect((await lock({ weights: 'ema' })).backbone).toEqual({
    ...(await lock({})).backbone,
    weights: 'ema',
  });
  const told = await inspect(path, { loader });
  expect(told.reason).toMatch(/holds its UNet twice: as trained last, which is taken/);
  expect((await inspect(both('once.safetensors', withoutAverage), { loader })).reason).not.toMatch(
    /twice/,
  );
});

test('an average that is not there, not whole, or asked of a folder', async () => {
  const without = both('without.safetensors', withoutAverage);
  await expect(loadModel(without, { config, weights: 'ema' })).rejects.toMatchObject({
    code: 'NO_EMA',
  });
  const gone = 'model.diffusion_model.middle_block.0.in_layers.0.weight';
  const part = both('part.safetensors', (tensors) => tensors.delete(average(gone)));
  await expect(loadModel(part, { config, weights: 'ema' })).rejects.toMatchObject({
    code: 'MISSING_WEIGHT',
  });
  const model = resolve('test/parity/fixtures/unet/pocket');
  await expect(loadModel(model, { weights: 'ema' })).rejects.toMatchObject({ code: 'BAD_CONFIG' });
  writeFileSync(join(folder, 'stack.yaml'), `backbone: ${without}\nweights: emma\n`);
  expect((await inspect(join(folder, 'stack.yaml'), { loader })).reason).toMatch(/weights/);
});

/** A UNet of two levels without weights, and the parameters of an adapter on it, with numbers of their own. */
async function adapterOn(id: string, width: number, options: object) {
  const settings = {
    block_out_channels: [width, 2 * width],
    down_block_types: ['CrossAttnDownBlock2D', 'DownBlock2D'],
    up_block_types: ['UpBlock2D', 'CrossAttnUpBlock2D'],
    layers_per_block: 2,
    cross_attention_dim: 8,
    attention_head_dim: 2,
    norm_num_groups: 2,
  };
  const model: Model = {
    nets: { unet: unet(UNetConfig.parse(settings)) },
    weights: Weights.fromArrays({}),
    configs: { unet: settings },
    adapters: [],
  };
  const kind = await loader.get('adapters', id);
  const chosen = kind.options.parse(options);
  const adapter = kind.create({ name: 'own', model }, chosen);
  const { params } = inventory(compose(model, adapter), nominalDims);
  const values = new Map(
    [...params.values()]
      .filter(({ name }) => name.startsWith('own.'))
      .map(({ name, shape }, i) => [name.slice(4), Rng.of(i).normals(shape)] as const),
  );
  const reopened = (path: string) => {
    const file = readAdapterFile(path);
    const { dialect } = kind.detect!(file)!;
    const { weights } = kind.create({ name: 'own', model, file }, chosen);
    return { dialect, weights: weights! };
  };
  return { settings, values, reopened };
}

/** Whether a file holds the values, under whatever names. */
function same(weights: Weights, values: ReadonlyMap<string, NDArray>): void {
  expect([...weights.names()].toSorted()).toEqual([...values.keys()].toSorted());
  for (const [name, value] of values) expect(weights.entry(name).load().data).toEqual(value.data);
}

test('12 random ControlNets in the original layout, bare, wrapped and inside a checkpoint', async () => {
  for (let k = 0; k < 12; k++) {
    const rng = Rng.of(42).fork(k);
    const hints = Array.from({ length: 2 + rng.int(3) }, (_, i) => 4 * (1 + rng.fork(i).int(3)));
    const width = 4 * (1 + rng.int(2));
    const shaped = {
      block_out_channels: [width, 2 * width],
      down_block_types: ['CrossAttnDownBlock2D', 'DownBlock2D'],
    };
    const options = {
      ...shaped,
      cross_attention_dim: 8,
      attention_head_dim: 2,
      norm_num_groups: 2,
      conditioning_embedding_out_channels: hints,
    };
    const { values, reopened } = await adapterOn('edit', width, options);
    const known = places([true, false], 2);
    const prefix = k % 3 === 0 ? '' : 'control_model.';
    const tensors = Object.fromEntries(
      [...values].map(([name, value]) => [
        prefix + originalControl(name, known, 2 * (hints.length - 1)),
        value,
      ]),
    );
    if (k % 3 === 2) tensors['model.diffusion_model.out.0.weight'] = f32([1], [1]);
    const path = join(folder, `control-${k}.safetensors`);
    writeSafetensors(path, tensors);
    const { dialect, weights } = reopened(path);
    expect(dialect).toBe('ldm');
    same(weights, values);
  }
});

test('12 random motion modules as AnimateDiff names them, some of a wrapped model', async () => {
  for (let k = 0; k < 12; k++) {
    const rng = Rng.of(43).fork(k);
    const width = 4 * (1 + rng.int(2));
    const mid = rng.uniform() < 0.5;
    const options = {
      block_out_channels: [width, 2 * width],
      motion_layers_per_block: 2,
      motion_num_attention_heads: 2,
      motion_norm_num_groups: 2,
      motion_max_seq_length: [24, 32][rng.int(2)],
      use_motion_mid_block: mid,
    };
    const { values, reopened } = await adapterOn('video', width, options);
    const tensors = Object.fromEntries(
      [...values].flatMap(([name, value]) => {
        const own = originalMotion(name);
        const prefix = k % 2 ? 'module.' : '';
        const second = own.replace(
          '.attention_blocks.0.pos_encoder',
          '.attention_blocks.1.pos_encoder',
        );
        return [...new Set([own, second])]
          .filter((one) => one === own || own.endsWith('.pe'))
          .map((one) => [prefix + one, value]);
      }),
    ) as Record<string, NDArray>;
    expect(Object.keys(tensors).some((key) => key.includes('mid_block'))).toBe(mid);
    const path = join(folder, `motion-${k}.safetensors`);
    writeSafetensors(path, tensors);
    const { dialect, weights } = reopened(path);
    expect(dialect).toBe('animatediff');
    same(weights, values);
  }
});
