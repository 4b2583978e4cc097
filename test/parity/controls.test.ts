/** A ControlNet's guess mode and its pooling over all pixels, against diffusers' ControlNetModel. */

import {
  compile,
  ddimPlan,
  findPlugins,
  materialize,
  ModelRunner,
  nominalDims,
  openStack,
  PluginLoader,
  sample,
  StackFile,
  standingFeeds,
} from '@attune/core';
import { type F32Array, openSafetensors } from '@attune/engine';
import { relativeError, testRuntime } from '@attune/engine/testing';
import { expect, test } from 'vitest';

import { feedsOf, readCase } from './stack.ts';

const fixtures = 'test/parity/fixtures';
const loader = new PluginLoader(findPlugins('packages/cli'));
const forwardLimit = 5e-5;
const gradientLimit = 5e-4;

/** The prediction of a case with these options of the stack entry, and the gradients it knows. */
async function run(file: string, options: Readonly<Record<string, unknown>>) {
  const io = readCase(`${fixtures}/controls/io.${file}.safetensors`);
  const entry = { use: 'edit', from: `${fixtures}/compose/pocket/edit`, strength: 0.7, ...options };
  const stack = StackFile.parse({ backbone: `${fixtures}/unet/pocket`, adapters: [entry] });
  const model = materialize(await openStack(stack, '.', loader), { dims: nominalDims });
  const feeds = feedsOf(io);
  const [B, , H, W] = feeds.sample.shape;
  const dims = { B, F: 1, H, W, L: feeds.encoder_hidden_states.shape[1] };
  const shapes = Object.fromEntries(Object.entries(feeds).map(([key, { shape }]) => [key, shape]));
  const runtime = testRuntime();
  const program = compile(model, { net: 'unet', dims, shapes }, { runtime, segments: 1 });
  const wrt = [...program.inputs.keys()].filter((name) => io.has(`grad.${name}`));
  const all = { ...standingFeeds(model, program), ...feeds };
  const cotangents = { sample: io.get('cot.sample')! };
  const { outputs, grads } = await program.sweep(wrt).run(all, cotangents);
  await program.release();
  const gradients = Object.entries(grads).map(([name, got]) =>
    relativeError(got, io.get(`grad.${name}`)!),
  );
  const known = [...io.keys()].filter((key) => key.startsWith('grad.')).length;
  return { error: relativeError(outputs.sample, io.get('out.sample')!), gradients, known };
}

test.each([
  ['guess', { guess_mode: true }],
  ['pool', { global_pool_conditions: true }],
  // Pooling goes first, as there.
  ['pool', { global_pool_conditions: true, guess_mode: true }],
])('%s: %o', async (file, options) => {
  const { error, gradients, known } = await run(file, options);
  expect(error).toBeLessThan(forwardLimit);
  expect(gradients.length).toBe(known);
  expect(known).toBeGreaterThanOrEqual(4);
  expect(Math.max(...gradients)).toBeLessThan(gradientLimit);
});

test.each(['guess', 'pool'])('without its option the prediction is another: %s', async (file) => {
  expect((await run(file, {})).error).toBeGreaterThan(20 * forwardLimit);
});

/** Latents at the end of sampling, with guidance or without, beside those of diffusers' own pipeline. */
async function sampled(file: string, options: Readonly<Record<string, unknown>>) {
  const path = `${fixtures}/controls/sampled.${file}.safetensors`;
  const io = readCase(path);
  const { prompt, negative, steps, guidance } = JSON.parse(openSafetensors(path).metadata.case) as {
    prompt: string;
    negative: string;
    steps: number;
    guidance: number;
  };
  const entry = { use: 'edit', from: `${fixtures}/compose/pocket/edit`, strength: 0.7, ...options };
  const stack = StackFile.parse({ backbone: `${fixtures}/unet/pocket`, adapters: [entry] });
  const runner = new ModelRunner(await openStack(stack, '.', loader), testRuntime());
  const noise = io.get('in.noise') as F32Array;
  const [, , H, W] = noise.shape;
  const branch = async (text: string) => ({
    encoder_hidden_states: (await runner.encodeText([text])).states,
    'edit.image': io.get('in.image')!,
  });
  const branches = { text: await branch(prompt), none: await branch(negative) };
  const errors = [];
  for (const [scale, truth] of [
    [guidance, 'guided'],
    [1, 'alone'],
  ] as const) {
    const latents = await sample(runner, {
      dims: { B: 1, F: 1, H, W, L: branches.text.encoder_hidden_states.shape[1] },
      branches,
      guidance: {
        convention: 'uncond+s*delta',
        terms: [{ base: 'none', cond: 'text', scale }],
      },
      plan: ddimPlan(runner.model.schedule!, steps),
      noise,
    });
    errors.push(relativeError(latents, io.get(`out.${truth}`)!));
  }
  await runner.release();
  return { guided: errors[0], alone: errors[1] };
}

test.each([
  ['guess', { guess_mode: true }],
  ['pool', { global_pool_conditions: true }],
])(
  '%s under guidance: the branch without the text goes without, as in diffusers',
  async (file, options) => {
    const { guided, alone } = await sampled(file, options);
    expect(Math.max(guided, alone)).toBeLessThan(2e-4);
    expect((await sampled(file, {})).guided).toBeGreaterThan(2e-3);
  },
);
