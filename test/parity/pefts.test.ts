/** PEFT's own files on the pocket UNet: low-rank matrices with a bias, patterns whose order counts, layers saved whole. */

import { lora, readLora } from '@attune/adapter-lora';
import {
  compile,
  compose,
  findPlugins,
  loadModel,
  materialize,
  nominalDims,
  PluginLoader,
  readAdapterFile,
  standingFeeds,
  trainableInputs,
} from '@attune/core';
import { type AttuneError, Weights, zeros } from '@attune/engine';
import { relativeError, testRuntime } from '@attune/engine/testing';
import { expect, test } from 'vitest';

import { inspect } from '../../packages/cli/src/inspect/verdict.ts';
import { feedsOf, fixtureName, readCase } from './stack.ts';

const fixtures = 'test/parity/fixtures';
const forwardLimit = 5e-5;
const gradientLimit = 5e-4;
const backbone = await loadModel(`${fixtures}/unet/pocket`);
const io = readCase(`${fixtures}/peft/io.ordered.safetensors`);

/** The UNet with the adapter, compiled for the shapes of the fixture. */
function build() {
  const read = readLora(readAdapterFile(`${fixtures}/peft/ordered`), backbone);
  const adapter = lora({ name: 'ordered', ...read, train: true });
  const model = materialize(compose(backbone, adapter), { dims: nominalDims });
  const own = feedsOf(io);
  const [B, , H, W] = own.sample.shape;
  const dims = { B, F: 1, H, W, L: own.encoder_hidden_states.shape[1] };
  const shapes = Object.fromEntries(Object.entries(own).map(([key, { shape }]) => [key, shape]));
  const runtime = testRuntime();
  const program = compile(model, { net: 'unet', dims, shapes }, { runtime, segments: 1 });
  return { model, read, program, feeds: { ...standingFeeds(model, program), ...own } };
}

test('prediction and every gradient equal those of PEFT', async () => {
  const { model, program, feeds } = build();
  const wrt = [...new Set([...trainableInputs(model, program), ...program.inputs.keys()])].filter(
    (name) => io.has(fixtureName(model, name)),
  );
  const { outputs, grads } = await program.sweep(wrt).run(feeds, { sample: io.get('cot.sample')! });
  await program.release();
  expect(relativeError(outputs.sample, io.get('out.sample')!)).toBeLessThan(forwardLimit);
  const names = Object.keys(grads);
  const known = [...io.keys()].filter((key) => key.startsWith('grad.'));
  expect(names.map((name) => fixtureName(model, name)).toSorted()).toEqual(known.toSorted());
  expect(known.filter((key) => key.endsWith('.lora_B.bias')).length).toBeGreaterThan(5);
  for (const name of names) {
    const error = relativeError(grads[name], io.get(fixtureName(model, name))!);
    expect({ name, near: error < gradientLimit }).toEqual({ name, near: true });
  }
});

test('the first pattern that fits counts, in the order of the text', () => {
  const { modules } = build().read;
  const block = 'unet.mid_block.attentions.0.transformer_blocks.0';
  const told = ['attn1.to_q', 'attn1.to_out.0', 'attn2.to_q', 'attn2.to_out.0', 'ff.net.2'].map(
    (layer) => {
      const { rank, alpha } = modules.get(`${block}.${layer}`)!;
      return [layer, rank, alpha];
    },
  );
  expect(told).toEqual([
    ['attn1.to_q', 4, 3],
    ['attn1.to_out.0', 3, 9],
    ['attn2.to_q', 2, 5],
    ['attn2.to_out.0', 2, 5],
    ['ff.net.2', 1, 4],
  ]);
});

test('without its biases the prediction is another', async () => {
  const { program, feeds } = build();
  const biases = Object.keys(feeds).filter((name) => name.endsWith('.lora_B.bias'));
  expect(biases.length).toBeGreaterThan(5);
  for (const name of biases) feeds[name] = zeros(feeds[name].shape);
  const { sample } = await program.run(feeds);
  await program.release();
  expect(relativeError(sample, io.get('out.sample')!)).toBeGreaterThan(20 * forwardLimit);
});

test('layers that were trained whole are refused by their names, with a way out', async () => {
  const path = `${fixtures}/peft/whole`;
  const message =
    /\(modules_to_save or bias\): conv_out, time_embedding\.linear_1 \(2\), .*merge_and_unload/;
  const open = () => readLora(readAdapterFile(path), backbone);
  expect(open).toThrow(message);
  expect(open).toThrow(
    expect.objectContaining({
      code: 'SAVED_WHOLE',
      facts: expect.objectContaining({
        lost: ['conv_out', 'time_embedding.linear_1'].flatMap((layer) => [
          `base_model.model.${layer}.bias`,
          `base_model.model.${layer}.weight`,
        ]),
      }) as AttuneError['facts'],
    }),
  );
  // A module of the adapter that the model has no layer for is none of them.
  const key = 'base_model.model.nowhere.to_q.lora_A.weight';
  const { weights, metadata } = readAdapterFile(`${fixtures}/peft/ordered`);
  const more = Weights.overlay(weights, Weights.fromArrays({ [key]: zeros([2, 4]) }));
  expect(() => readLora({ path, weights: more, metadata }, backbone)).toThrow(
    expect.objectContaining({ code: 'UNMATCHED_WEIGHTS' }),
  );
  const loader = new PluginLoader(findPlugins('packages/cli'));
  for (const base of [undefined, backbone]) {
    const verdict = await inspect(path, { loader, ...(base ? { base } : {}) });
    expect(verdict).toMatchObject({ verdict: 'refused', kind: 'lora', dialect: 'peft' });
    expect(`${verdict.reason}; ${verdict.fix}`).toMatch(message);
  }
});
