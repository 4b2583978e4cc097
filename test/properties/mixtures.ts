/** Files of LoRA's family on the model of layers: opened through their kind, compared layer by layer. */

import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import {
  compile,
  compose,
  findPlugins,
  materialize,
  type Model,
  nominalDims,
  PluginLoader,
  readAdapterFile,
  standingFeeds,
} from '@attune/core';
import { OrtRuntime, type Rng } from '@attune/engine';
import { expect } from 'vitest';

import type { Made } from './algorithms.ts';
import { far, layers, numbers, probe, shown } from './layers.ts';

const loader = new PluginLoader(findPlugins('packages/cli'));
const runtime = new OrtRuntime({ threads: 1 });
export const folder = mkdtempSync(join(tmpdir(), 'mixtures-'));

/** Loads a file through its kind and compares every layer of the model with what it should have become. */
export async function check(
  path: string,
  model: Model,
  expected: ReadonlyMap<string, Made>,
): Promise<string> {
  const file = readAdapterFile(path);
  const kind = await loader.get('adapters', 'lora');
  const detection = kind.detect!(file)!;
  const adapter = kind.create({ name: 'look', model, file }, kind.options.parse({}));
  const whole = materialize(compose(model, adapter), { dims: nominalDims });
  for (const net of ['unet', 'text_encoder']) {
    const program = compile(whole, { net, dims: nominalDims }, { runtime });
    const own = Object.entries(layers).filter(([address]) => address.startsWith(`${net}.`));
    const outputs = await program.run({
      ...Object.fromEntries(own.map(([address, layer]) => [address, probe(layer)])),
      ...standingFeeds(whole, program),
    });
    await program.release();
    for (const [address, layer] of own) {
      const made = expected.get(address);
      const [weight, bias] = ['weight', 'bias'].map((leaf) =>
        numbers(model.weights.entry(`${address}.${leaf}`).load()),
      );
      const want = shown(layer, made?.weight ?? weight, made?.bias ?? bias);
      const error = far(outputs[`y.${address}`], want);
      expect({
        path,
        address,
        leaves: Object.keys(made?.leaves ?? {}),
        near: error < 1e-5,
      }).toMatchObject({ near: true });
    }
  }
  return detection.dialect;
}

/** A random part of the layers, at least one of them. */
export function chosen(rng: Rng, of: readonly string[]): string[] {
  const some = of.filter((_, i) => rng.fork('in', i).uniform() < 0.7);
  return some.length > 0 ? some : [of[rng.int(of.length)]];
}

export const flat = (address: string): string => {
  const [net, ...rest] = address.split('.');
  return `${net === 'unet' ? 'lora_unet' : 'lora_te'}_${rest.join('_')}`;
};
