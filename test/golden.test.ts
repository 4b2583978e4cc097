/** Adapter algorithms against golden vectors that their own libraries agreed to (test/golden). */

import { readdirSync } from 'node:fs';
import { join } from 'node:path';

import { lora, readLora } from '@attune/adapter-lora';
import {
  compile,
  compose,
  conv,
  groupNorm,
  linear,
  materialize,
  type Model,
  nominalDims,
  type Scope,
  standingFeeds,
} from '@attune/core';
import { type NDArray, OrtRuntime, type Tensor, Weights } from '@attune/engine';
import { relativeError } from '@attune/engine/testing';
import { expect, test } from 'vitest';

const folder = 'test/golden';
const files = readdirSync(folder).filter((name) => name.endsWith('.safetensors'));
const runtime = new OrtRuntime({ threads: 1 });

/** The layers of the cases, as test/golden/README.md describes them. */
const layers: Readonly<Record<string, (scope: Scope, x: Tensor, out: number) => Tensor>> = {
  linear: (scope, x, out) => linear(scope, x, out),
  wide: (scope, x, out) => linear(scope, x, out),
  conv: (scope, x, out) => conv(scope, x, out, { stride: 2, padding: 1 }),
  'wide-conv': (scope, x, out) => conv(scope, x, out, { stride: 2, padding: 1 }),
  pointwise: (scope, x, out) => conv(scope, x, out, { kernel: 1 }),
  norm: (scope, x) => groupNorm(scope, x, 4, 1e-5),
};

interface Case {
  readonly type: string;
  readonly file: { path: string; weights: Weights; metadata: {}; config?: unknown };
  readonly given: Weights;
}

function open(name: string): Case {
  const path = join(folder, name);
  const all = Weights.fromFile(path);
  const { layer, config } = all.metadata;
  const own = /^(layer\.|x$|y)/;
  return {
    type: (JSON.parse(layer) as { type: string }).type,
    given: all,
    file: {
      path,
      weights: all.renamed((key) => (own.test(key) ? undefined : key)),
      metadata: {},
      ...(config === undefined ? {} : { config: JSON.parse(config) as unknown }),
    },
  };
}

/** A model of that one layer. */
function single({ type, given }: Case): Model {
  const [out] = given.entry('layer.weight').shape;
  return {
    nets: {
      unet: {
        name: 'unet',
        signature: () => ({ x: { shape: given.entry('x').shape } }),
        trace: (root, { inputs }) => ({
          y: layers[type](root.at('unet', 'layer'), inputs.x, out),
        }),
      },
    },
    weights: Weights.fromArrays({
      'unet.layer.weight': given.entry('layer.weight').load(),
      'unet.layer.bias': given.entry('layer.bias').load(),
    }),
    adapters: [],
  };
}

async function run(one: Case, strength: number): Promise<NDArray> {
  const base = single(one);
  const model = materialize(compose(base, lora({ ...readLora(one.file, base), strength })), {
    dims: nominalDims,
  });
  const program = compile(model, { net: 'unet', dims: nominalDims }, { runtime });
  const { y } = await program.run({
    x: one.given.entry('x').load(),
    ...standingFeeds(model, program),
  });
  await program.release();
  return y;
}

test.each(files)('%s', async (name) => {
  const one = open(name);
  const [whole, half] = [await run(one, 1), await run(one, 0.5)];
  const [y, yHalf] = ['y', 'y.half'].map((key) => one.given.entry(key).load());
  expect(relativeError(whole, y)).toBeLessThan(5e-6);
  expect(relativeError(half, yHalf)).toBeLessThan(5e-6);
  // what must matter does: a tenth of the strength, more than 20 times the tolerance
  expect(relativeError(await run(one, 0.9), y)).toBeGreaterThan(1e-4);
});
