/** Layouts of adapter files in the wild: each opens as the adapter that diffusers' layout holds. */

import { findPlugins, openStack, PluginLoader, StackFile } from '@attune/core';
import { toF32, toHalf } from '@attune/engine';
import { expect, test } from 'vitest';

const fixtures = 'test/parity/fixtures';
const loader = new PluginLoader(findPlugins('packages/cli'));

/** Weights of the adapter, by its own names, and its config. */
async function opened(backbone: string, entry: Readonly<Record<string, unknown>>) {
  const stack = StackFile.parse({ backbone: `${fixtures}/unet/${backbone}`, adapters: [entry] });
  const model = await openStack(stack, '.', loader);
  const [{ name, config }] = model.adapters;
  const own = model.weights.under(`${name}.`);
  const values = Object.fromEntries(
    [...own.names()].toSorted().map((key) => [key, own.entry(key).load()]),
  );
  return { config, values };
}

test('motion modules as AnimateDiff saves them: pickled, wrapped, with a table in every attention', async () => {
  const truth = await opened('sd15', { use: 'video', from: `${fixtures}/compose/sd15/video` });
  const original = await opened('sd15', {
    use: 'video',
    from: `${fixtures}/checkpoints/motion.ckpt`,
    // What no file tells: AnimateDiff's own are 8 and 32.
    motion_num_attention_heads: 4,
    motion_norm_num_groups: truth.config!.motion_norm_num_groups,
  });
  expect(original.values).toEqual(truth.values);
  for (const [key, value] of Object.entries(original.config!))
    expect({ key, value }).toEqual({ key, value: truth.config![key] });
});

test('a ControlNet as its own code saves it: pickled, wrapped, halves', async () => {
  const truth = await opened('sd15', { use: 'edit', from: `${fixtures}/compose/sd15/edit` });
  const original = await opened('sd15', {
    use: 'edit',
    from: `${fixtures}/checkpoints/control.pth`,
    // What no file tells: Stable Diffusion's own are 8 and 32.
    attention_head_dim: 4,
    norm_num_groups: truth.config!.norm_num_groups,
  });
  const { 'class_embedding.weight': tasks, ...values } = truth.values;
  expect(tasks).toBeDefined();
  const halves = Object.entries(values).map(([key, array]) => [key, toHalf(toF32(array), 'f16')]);
  expect(original.values).toEqual(Object.fromEntries(halves));
  const { num_class_embeds: _, ...config } = truth.config!;
  for (const key of Object.keys(original.config!))
    if (key in config)
      expect({ key, value: original.config![key] }).toEqual({ key, value: config[key] });
});
