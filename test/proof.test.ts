/** The load proof and the interference of adapters, against what can be told without them. */

import { readdirSync, readFileSync } from 'node:fs';
import { resolve } from 'node:path';

import { lora } from '@attune/adapter-lora';
import {
  compile,
  compose,
  findPlugins,
  interference,
  lockOf,
  materialize,
  type Model,
  nominalDims,
  openStack,
  parseYaml,
  PluginLoader,
  prove,
  readStackParts,
  StackFile,
  standingFeeds,
} from '@attune/core';
import { randomised, tinyModel } from '@attune/core/testing';
import { f32, type F32Array, HashBook, OrtRuntime, Rng } from '@attune/engine';
import { afterAll, describe, expect, test } from 'vitest';

const composed = resolve('test/parity/fixtures/compose/pocket');
const backbone = resolve('test/parity/fixtures/unet/pocket');
const loader = new PluginLoader(findPlugins('packages/cli'));
const runtime = new OrtRuntime({ threads: 1 });
afterAll(() => runtime.release());

async function opened(...adapters: readonly Readonly<Record<string, unknown>>[]): Promise<Model> {
  const stack = StackFile.parse({ backbone, adapters });
  return materialize(await openStack(stack, '.', loader), { dims: nominalDims });
}
const look = (rest: object = {}) => ({
  use: 'lora',
  from: `${composed}/look.safetensors`,
  ...rest,
});
const edit = { use: 'edit', from: `${composed}/edit` };
const video = { use: 'video', from: `${composed}/video` };

const norm = (values: Float32Array) => Math.hypot(...values);

/** A LoRA as it is before its training: the identity. */
const blank = (train?: true) =>
  materialize(compose(tinyModel(), lora({ name: 'blank', ...(train ? { train } : {}) })), {
    dims: nominalDims,
  });

describe('the load proof', () => {
  test('of edit + video + LoRA + a LoRA inside the motion modules: each acts, where it should', async () => {
    const sway = { name: 'sway', use: 'lora', from: `${composed}/sway.safetensors` };
    const proofs = await prove(await opened(edit, video, look({ name: 'look' }), sway), runtime);
    expect(Object.keys(proofs)).toEqual(['edit', 'video', 'look', 'sway']);
    for (const { left_out, blocks } of Object.values(proofs)) {
      expect(left_out).toBeGreaterThan(1e-3);
      expect(Object.values(blocks).every((share) => share > 0)).toBe(true);
    }
    const places = (name: string) => Object.keys(proofs[name].blocks);
    expect(places('edit').every((block) => /^unet\.(skips\.\d|mid_block)$/.test(block))).toBe(true);
    expect(places('video')).toContain('unet.down_blocks.0');
    expect(places('sway').every((block) => block.startsWith('video.'))).toBe(true);
    // Without the motion modules it has nothing to act in.
    expect(proofs.sway.alone).toBe(0);
  });

  test('its norm of a delta is that of the value with and without the adapter', async () => {
    const model = randomised(
      materialize(
        compose(
          tinyModel(),
          lora({ name: 'look', targets: 'unet.conv_in', rank: 2, strength: 0.7 }),
        ),
        {
          dims: nominalDims,
        },
      ),
      3,
    );
    const site = 'layer:unet.conv_in';
    const dims = { B: 1, F: 1, H: 16, W: 16, L: 8 };
    const program = compile(model, { net: 'unet', dims, outputs: [site] }, { runtime });
    const inputs = { sample: Rng.of(11).fork('sample').normals([1, 4, 16, 16]) };
    const standing = standingFeeds(model, program);
    const [on, off] = await Promise.all(
      [standing, { ...standing, 'gate.look': f32([0], []) }].map(async (feeds) => {
        const out = await program.run({ ...feeds, ...inputs });
        return (out[site] as F32Array).data;
      }),
    );
    const want = norm(on.map((value, i) => value - off[i])) / norm(on);
    const { look: proof } = await prove(model, runtime);
    expect(Object.keys(proof.blocks)).toEqual(['unet.conv_in']);
    expect(Math.abs(proof.blocks['unet.conv_in'] / want - 1)).toBeLessThan(5e-3); // three digits
  });

  test('an adapter alone in its stack changes as much left out as alone', async () => {
    const { lora: proof } = await prove(await opened(look({ strength: 1e-3 })), runtime);
    const { lora: twice } = await prove(await opened(look({ strength: 2e-3 })), runtime);
    expect(proof.left_out / proof.alone).toBeCloseTo(1, 2);
    expect(twice.alone / proof.alone).toBeCloseTo(2, 1);
  });

  test('an adapter without effect is an error, unless it trains', async () => {
    await expect(prove(blank(), runtime)).rejects.toThrow(
      /^blank changes nothing: .* strength to 0/,
    );
    expect(await prove(blank(true), runtime)).toMatchObject({ blank: { alone: 0 } });
  });

  test('a damaged weight is told as such', async () => {
    const model = await opened(look());
    const name = [...model.weights.names()].find((key) => key.startsWith('lora.'))!;
    const { shape, data } = model.weights.entry(name).load() as F32Array;
    const { Weights } = await import('@attune/engine');
    const broken = Weights.fromArrays({
      [name]: { dtype: 'f32', shape, data: data.map(() => NaN) },
    });
    const damaged = { ...model, weights: Weights.overlay(model.weights, broken) };
    await expect(prove(damaged, runtime)).rejects.toThrow(/NaN or infinity.*inspect --deep/);
  });
});

describe('interference', () => {
  test('one LoRA twice at small strength overlaps wholly; against itself it is undone', async () => {
    for (const sign of [1, -1]) {
      const model = await opened(
        look({ name: 'a', strength: 1e-2 }),
        look({ name: 'b', strength: sign * 1e-2 }),
      );
      const { before, after, alone } = await interference(model, runtime);
      expect(after).toBeUndefined();
      expect(before.overlaps.length).toBeGreaterThan(3);
      for (const { overlap, cosine } of before.overlaps) {
        expect(overlap).toBeGreaterThan(0.98);
        expect(cosine * sign).toBeGreaterThan(0.98);
      }
      expect(before.leftOut.a / alone.a).toBeCloseTo(1, 1);
    }
  });

  test('other adapters overlap in part, and the aligning one is measured with and without', async () => {
    const model = await opened(edit, video, look({ name: 'align' }));
    const { adapters, before, after } = await interference(model, runtime, 'align');
    expect(adapters).toEqual(['edit', 'video']);
    for (const { overlaps } of [before, after!]) {
      // The edit adapter's skips reach the decoder alone.
      expect(overlaps.every(({ block }) => /mid_block|up_blocks/.test(block))).toBe(true);
      for (const { overlap, cosine } of overlaps) {
        expect(overlap > 0 && overlap < 1).toBe(true);
        expect(Math.abs(cosine)).toBeLessThan(1);
      }
    }
    expect(after).not.toEqual(before);
    // Before is the stack that does not have it.
    const without = await interference(await opened(edit, video), runtime);
    for (const [i, { overlap }] of without.before.overlaps.entries())
      expect(before.overlaps[i].overlap).toBeCloseTo(overlap, 4);
  });
});

/** The kernel's account of a file's mappings: private to this process, and not a page of them written to. */
function untouched(path: string): void {
  const maps = readFileSync('/proc/self/smaps', 'utf8').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  const own = maps.filter((map) => map.includes(path));
  expect(own.length).toBeGreaterThan(0);
  for (const map of own) {
    expect(map.split(' ')[1]).toMatch(/p$/);
    expect(map).toMatch(/^Private_Dirty: +0 kB$/m);
    expect(map).toMatch(/^Shared_Dirty: +0 kB$/m);
  }
}

test('base weights are mapped and never written to: no run and no gradient changes a byte', async () => {
  const folder = resolve('packages/pocket/stacks');
  const stack = parseYaml(StackFile, readFileSync(`${folder}/plain.yaml`, 'utf8'), 'plain.yaml');
  const hashes = async () => {
    const parts = await readStackParts(stack, folder, loader);
    const { backbone: base, adapters } = lockOf(
      stack,
      parts,
      loader,
      new HashBook({ verify: true }),
    );
    return { base: base.files, adapters };
  };
  const before = await hashes();
  const mapped = new OrtRuntime({ threads: 1, profile: 'mapped' });
  const align = lora({ name: 'align', rank: 2, train: true });
  const model = randomised(
    materialize(compose(await openStack(stack, folder, loader), align), { dims: nominalDims }),
    5,
  );
  const program = compile(
    model,
    { net: 'unet', dims: { B: 1, F: 2, H: 16, W: 16, L: 8 } },
    { runtime: mapped },
  );
  const feeds = standingFeeds(model, program);
  for (const [name, { shape, dtype }] of program.inputs)
    feeds[name] ??=
      name === 'timestep'
        ? f32([500], [1])
        : dtype === 'f32'
          ? Rng.of(1).fork(name).normals(shape)
          : { dtype, shape, data: new BigInt64Array(shape.reduce((a, b) => a * b, 1)) };
  const trained = [...program.inputs.keys()].filter((name) => name.startsWith('align.'));
  const { outputs, grads } = await program
    .sweep(trained, 'segment')
    .run(feeds, { sample: Rng.of(2).normals([2, 12, 16, 16]) });
  expect((outputs.sample as F32Array).data.every(Number.isFinite)).toBe(true);
  expect(Object.values(grads).some(({ data }) => data.some((x) => x !== 0))).toBe(true);
  if (process.platform === 'linux') untouched('packages/pocket/models/unet');
  await program.release();
  await mapped.release();
  expect(await hashes()).toEqual(before);
  expect(readdirSync(resolve('packages/pocket/models/unet'))).toHaveLength(2);
});
