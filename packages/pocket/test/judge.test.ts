import { join } from 'node:path';

import {
  findPlugins,
  inventory,
  loadModel,
  nominalDims,
  openStack,
  PluginLoader,
  StackFile,
  traceNet,
} from '@attune/core';
import { ancestors, flops, type NDArray, Rng } from '@attune/engine';
import { describe, expect, test } from 'vitest';

import {
  argmaxRows,
  HEAD_NAMES,
  HEADS,
  labelled,
  labelOf,
  renderFrame,
  sampleLabelled,
} from '../src/index.ts';

const home = join(import.meta.dirname, '..');
const open = (name: string) =>
  openStack(
    StackFile.parse({ backbone: join('models', name) }),
    home,
    new PluginLoader(findPlugins(home)),
    { fresh: true },
  );

describe('the judges', () => {
  test.each(['judge', 'features'])('%s is a net that this plugin contributes', async (name) => {
    const model = await open(name);
    expect(Object.keys(model.nets)).toEqual([name]);
    const { params } = inventory(model, nominalDims);
    expect([...params.keys()].every((param) => param.startsWith(`${name}.`))).toBe(true);
    expect(params.get(`${name}.heads.object.weight`)?.shape).toEqual([30, 192]);
    const { traced } = traceNet(model, { net: name, dims: nominalDims });
    for (const head of HEAD_NAMES)
      expect(traced.outputs[`logits.${head}`].shape).toEqual([1, HEADS[head].length]);
    const nodes = ancestors(Object.values(traced.outputs));
    const forward = [...nodes].reduce((sum, node) => sum + flops(node), 0);
    expect(3 * forward).toBeLessThan(0.4e9);
  });

  test('have levels that halve the sides', async () => {
    const { traced } = traceNet(await open('features'), { net: 'features', dims: nominalDims });
    expect([0, 1, 2, 3].map((i) => traced.outputs[`level.${i}`].shape.slice(2))).toEqual([
      [64, 64],
      [32, 32],
      [16, 16],
      [8, 8],
    ]);
  });

  test('cannot be loaded without the plugin', async () => {
    await expect(loadModel(join(home, 'models', 'judge'), { fresh: true })).rejects.toThrow(
      'the class pocket/judge is not supported',
    );
  });
});

describe('labelled frames', () => {
  const scenes = Array.from({ length: 2400 }, (_, id) => sampleLabelled(Rng.of(4).fork(id)));

  test('show every class of every head often enough to be learnt', () => {
    for (const head of HEAD_NAMES)
      HEADS[head].forEach((name, label) => {
        const share = scenes.filter((scene) => labelOf(scene, head) === label).length / 2400;
        expect(share, `${head}: ${name}`).toBeGreaterThan(0.02);
      });
  });

  test('depend on their ids alone, and are soiled in some of them', async () => {
    const source = labelled({ soiled: 0.5 });
    const rng = Rng.of(9);
    const one = async (id: number) => pixelsOf(await source.batch([id], rng));
    const both = pixelsOf(await source.batch([5, 3], rng));
    expect(both.slice(0, both.length / 2)).toEqual(await one(5));
    expect(both.slice(both.length / 2)).toEqual(await one(3));
    const frames = await Promise.all(Array.from({ length: 12 }, (_, id) => one(id)));
    const clean = frames.map((frame, id) => {
      const draw = rng.fork(id);
      const { pixels } = renderFrame(sampleLabelled(draw), draw.int(8));
      return pixels.every((value, i) => Math.abs(2 * value - 1 - frame[i]) < 1e-6);
    });
    expect(new Set(clean)).toEqual(new Set([true, false]));
  });

  test('carry the label of what they show', async () => {
    const batch = await labelled({ soiled: 0 }).batch([0, 1, 2], Rng.of(9));
    const truth = [0, 1, 2].map((id) => sampleLabelled(Rng.of(9).fork(id)));
    for (const head of HEAD_NAMES)
      expect([...(batch[`label.${head}`].data as BigInt64Array)].map(Number)).toEqual(
        truth.map((scene) => labelOf(scene, head)),
      );
  });
});

const pixelsOf = (batch: Readonly<Record<string, NDArray>>): Float32Array =>
  batch.pixels.data as Float32Array;

test('the largest logit of a row is its class', () => {
  expect(argmaxRows(Float32Array.of(0, 2, 1, 5, 4, 3), 3)).toEqual([1, 0]);
});
