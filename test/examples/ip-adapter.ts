/** What the tests of examples/attune-ip-adapter share: the plugin by its path, stacks on the pocket model, a compiled UNet. */

import { resolve } from 'node:path';

import {
  compile,
  findPlugins,
  materialize,
  type Model,
  nominalDims,
  openStack,
  PluginLoader,
  StackFile,
  standingFeeds,
} from '@attune/core';
import { type NDArray, OrtRuntime } from '@attune/engine';

const fixtures = resolve('test/parity/fixtures');
export const files = `${fixtures}/ip-adapter`;
export const others = `${fixtures}/compose/pocket`;

export type Entry = Readonly<Record<string, unknown>>;

export const loader = new PluginLoader(
  findPlugins('packages/cli', [resolve('examples/attune-ip-adapter')]),
);
export const ip: Entry = { use: 'ip-adapter', name: 'ip', train: true };

/** Every weight of every file is asked for, and every parameter is there. */
export async function open(...adapters: readonly Entry[]): Promise<Model> {
  const stack = StackFile.parse({ backbone: `${fixtures}/unet/pocket`, adapters });
  return materialize(await openStack(stack, '.', loader), { dims: nominalDims });
}

const runtime = new OrtRuntime({ threads: 1 });

/** The UNet compiled for what is fed, and everything that is fed. */
export function build(model: Model, given: Readonly<Record<string, NDArray>>) {
  const clips = given.encoder_hidden_states.shape[0];
  const [rows, , H, W] = given.sample.shape;
  const dims = { B: clips, F: rows / clips, H, W, L: given.encoder_hidden_states.shape[1] };
  const shapes = Object.fromEntries(Object.entries(given).map(([key, { shape }]) => [key, shape]));
  const program = compile(model, { net: 'unet', dims, shapes }, { runtime });
  return { program, feeds: { ...standingFeeds(model, program), ...given } };
}
