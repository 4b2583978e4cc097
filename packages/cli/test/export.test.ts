/** The check of an export sees what is wrong with a file. */

import { closeSync, mkdtempSync, openSync, readFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { lora, readLora } from '@attune/adapter-lora';
import {
  compose,
  loadModel,
  materialize,
  type Model,
  nominalDims,
  readAdapterFile,
} from '@attune/core';
import { OrtRuntime } from '@attune/engine';
import { expect, test } from 'vitest';

import { checkGraph } from '../src/export/check.ts';
import { type GraphOptions, writeGraph } from '../src/export/graph.ts';
import { partsOf, sizesOf } from '../src/export/part.ts';

const fixtures = 'test/parity/fixtures';
const runtime = new OrtRuntime({ threads: 1 });
const small = { height: 16, width: 16, tokens: 8 };

async function stack(strength: number): Promise<Model> {
  const base = await loadModel(`${fixtures}/unet/pocket`);
  const file = readAdapterFile(`${fixtures}/compose/pocket/look.safetensors`);
  const look = lora({ name: 'look', strength, ...readLora(file, base) });
  return materialize(compose(base, look), { dims: nominalDims });
}

const written = (model: Model, options: Partial<GraphOptions> = {}) => {
  const folder = mkdtempSync(join(tmpdir(), 'graph-'));
  const [part] = partsOf(model, 'unet', sizesOf(model, small));
  const graph = writeGraph(model, part, {
    folder,
    weights: 'f32',
    external: true,
    liveStrengths: false,
    metadata: {},
    ...options,
  });
  return { folder, graph };
};

test('equal graphs give equal bytes, and nothing of this machine', async () => {
  const model = await stack(0.5);
  const [a, b] = [written(model), written(model)].map(({ folder }) => folder);
  for (const file of ['unet.onnx', 'unet.onnx.data']) {
    const bytes = readFileSync(join(a, file));
    expect(bytes.equals(readFileSync(join(b, file)))).toBe(true);
    expect(bytes.includes(tmpdir())).toBe(false);
    expect(bytes.includes(process.cwd())).toBe(false);
  }
});

test.each(['f32', 'f16'] as const)('%s weights that were changed on disk', async (weights) => {
  const model = await stack(0.5);
  const { folder, graph } = written(model, { weights });
  expect((await checkGraph(model, graph, folder, runtime)).error).toBeLessThan(1e-5);
  const path = join(folder, 'unet.onnx.data');
  const handle = openSync(path, 'r+');
  writeSync(
    handle,
    Uint8Array.from({ length: 16 }, () => 0x45),
    0,
    16,
    0,
  );
  closeSync(handle);
  await expect(checkGraph(model, graph, folder, runtime)).rejects.toThrow(/nothing is kept/);
});

test('another strength than the stack has', async () => {
  const { folder, graph } = written(await stack(0.5));
  const other = await stack(0.6);
  await expect(checkGraph(other, graph, folder, runtime)).rejects.toThrow(
    /differs from attune's own run/,
  );
});
