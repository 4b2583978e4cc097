/** UNet + ControlNet with its own text + motion modules + LoRA on both, against diffusers and PEFT. */

import { compile, ddim, standingFeeds, trainableInputs } from '@attune/core';
import { type F32Array, f32, type NDArray, type Remat } from '@attune/engine';
import { relativeError, testRuntime } from '@attune/engine/testing';
import { roll, sweepBack } from '@attune/fdd';
import { describe, expect, test } from 'vitest';

import { type Case, feedsOf, fixtureName, openCase } from './stack.ts';

const forwardLimit = 5e-5;
const gradientLimit = 5e-4;

interface Plan {
  readonly segments: number | 'marks';
  readonly remat: Remat;
}

/** The UNet of a case compiled for the shapes of the fixture, with everything that is fed. */
function build(
  { model, io }: Case,
  segments: Plan['segments'],
  extra: Record<string, NDArray> = {},
) {
  const given = { ...feedsOf(io), ...extra };
  const { latents, timesteps, input_ids: ids, ...own } = given;
  const sample = given.sample ?? latents;
  const clips = given.encoder_hidden_states.shape[0];
  const [rows, , H, W] = sample.shape;
  const dims = { B: clips, F: rows / clips, H, W, L: given.encoder_hidden_states.shape[1] };
  const shapes = Object.fromEntries(Object.entries(own).map(([key, { shape }]) => [key, shape]));
  const runtime = testRuntime();
  const program = compile(model, { net: 'unet', dims, shapes }, { runtime, segments });
  const feeds = { ...standingFeeds(model, program), ...own };
  const trained = trainableInputs(model, program);
  const wrt = [...new Set([...trained, ...program.inputs.keys()])].filter((name) =>
    io.has(fixtureName(model, name)),
  );
  return { program, feeds, wrt, ids, times: timesteps ? [...timesteps.data].map(Number) : [] };
}

/** The largest error over gradients that the fixture knows, and how many it knows. */
function compare(grads: Readonly<Record<string, NDArray>>, { model, io }: Case) {
  let error = 0;
  let count = 0;
  for (const [name, got] of Object.entries(grads)) {
    const want = io.get(fixtureName(model, name));
    if (!want) continue;
    count++;
    error = Math.max(error, relativeError(got, want));
  }
  return { error, count };
}

const gradientsIn = (io: Case['io']): number =>
  [...io.keys()].filter((key) => key.startsWith('grad.')).length;

describe.each([
  ['pocket', 'control'],
  ['pocket', 'motion'],
  ['pocket', 'motion_per_frame'],
  ['pocket', 'lora'],
  ['pocket', 'stack'],
  ['pocket', 'strengths'],
  ['sd15', 'stack'],
])('%s %s', (name, file) => {
  test('prediction and every gradient equal the reference', async () => {
    const opened = await openCase(name, file);
    // Many small models load faster than one of twenty thousand nodes.
    const { program, feeds, wrt } = build(opened, name === 'sd15' ? 'marks' : 1);
    const cotangents = { sample: opened.io.get('cot.sample')! };
    const { outputs, grads } = await program.sweep(wrt).run(feeds, cotangents);
    expect(relativeError(outputs.sample, opened.io.get('out.sample')!)).toBeLessThan(forwardLimit);
    const { error, count } = compare(grads, opened);
    expect(error).toBeLessThan(gradientLimit);
    expect(count).toBe(gradientsIn(opened.io));
    await program.release();
  }, 120_000);
});

/** Three DDIM steps through a stack, and the gradient back through all of them. */
async function rollCase(
  opened: Case,
  { segments, remat }: Plan,
  extra: Record<string, NDArray> = {},
) {
  const { model, io } = opened;
  const { program, feeds, wrt, times } = build(opened, segments, extra);
  const full = program.sweep([...wrt, 'encoder_hidden_states', 'sample'].filter(unique), remat);
  const steps = times.map((t, j) => ({
    feeds: { timestep: f32([t], [1]) },
    pairs: ddim(model.schedule!, t, times[j + 1] ?? null),
  }));
  const rolled = await roll(full, feeds, io.get('in.latents') as F32Array, steps);
  const { grads, noise } = await sweepBack(full, rolled, io.get('cot.latents') as F32Array);
  await program.release();
  return {
    latents: rolled.latents,
    grads: { ...grads, latents: noise } as Record<string, F32Array>,
  };
}

const unique = (name: string, i: number, all: readonly string[]): boolean =>
  all.indexOf(name) === i;

describe('three DDIM steps through the whole stack', () => {
  const plans = [1, 4, 'marks'].flatMap((segments) =>
    ['none', 'step', 'segment'].map((remat) => ({ segments, remat }) as Plan),
  );
  let first: Awaited<ReturnType<typeof rollCase>> | undefined;

  test.each(plans)(
    '$segments segments, remat $remat',
    async (plan) => {
      const opened = await openCase('pocket', 'rollout');
      const result = await rollCase(opened, plan);
      expect(relativeError(result.latents, opened.io.get('out.latents')!)).toBeLessThan(
        forwardLimit,
      );
      const { error, count } = compare(result.grads, opened);
      expect(error).toBeLessThan(gradientLimit);
      expect(count).toBe(gradientsIn(opened.io));
      first ??= result;
      expect(relativeError(result.latents, first.latents)).toBeLessThan(1e-5);
      const apart = Object.entries(result.grads).map(([name, got]) =>
        relativeError(got, first!.grads[name]),
      );
      expect(Math.max(...apart)).toBeLessThan(1e-5);
    },
    120_000,
  );

  test('with LoRA on text keys and values and in the text encoder', async () => {
    const opened = await openCase('pocket', 'rollout_text');
    const { model, io } = opened;
    const ids = io.get('in.input_ids')!;
    const runtime = testRuntime();
    const dims = { B: ids.shape[0], F: 1, H: 8, W: 8, L: ids.shape[1] };
    const encoder = compile(model, { net: 'text_encoder', dims }, { runtime });
    const feeds = { ...standingFeeds(model, encoder), input_ids: ids };
    const text = encoder.sweep(trainableInputs(model, encoder));
    const { last_hidden_state: context } = await encoder.run(feeds);
    const { latents, grads } = await rollCase(
      opened,
      { segments: 1, remat: 'none' },
      {
        encoder_hidden_states: context,
      },
    );
    const { grads: ofText } = await text.run(feeds, {
      last_hidden_state: grads.encoder_hidden_states,
    });
    expect(relativeError(latents, io.get('out.latents')!)).toBeLessThan(forwardLimit);
    const { error, count } = compare({ ...grads, ...ofText }, opened);
    expect(error).toBeLessThan(gradientLimit);
    expect(count).toBe(gradientsIn(io));
    await encoder.release();
  }, 120_000);
});

describe('what must matter does', () => {
  const changes: Readonly<Record<string, (feeds: Record<string, NDArray>) => void>> = {
    'other text': (feeds) => {
      feeds.encoder_hidden_states = scaled(feeds.encoder_hidden_states, -1);
    },
    'another instruction': (feeds) => {
      feeds['edit.encoder_hidden_states'] = scaled(feeds['edit.encoder_hidden_states'], -1);
    },
    'another image': (feeds) => {
      feeds['edit.image'] = scaled(feeds['edit.image'], 0.5);
    },
    'another time': (feeds) => {
      feeds.timestep = scaled(feeds.timestep, 0.9);
    },
    'ControlNet 10 % weaker': (feeds) => {
      feeds['gate.edit'] = scaled(feeds['gate.edit'], 0.9);
    },
    'motion 10 % stronger': (feeds) => {
      feeds['gate.video'] = scaled(feeds['gate.video'], 1.1);
    },
    'LoRA 10 % weaker': (feeds) => {
      feeds['gate.look'] = scaled(feeds['gate.look'], 0.9);
    },
    'LoRA on the motion modules 10 % stronger': (feeds) => {
      feeds['gate.sway'] = scaled(feeds['gate.sway'], 1.1);
    },
  };

  test.each(Object.keys(changes))('%s', async (name) => {
    const opened = await openCase('pocket', 'stack');
    const { program, feeds } = build(opened, 1);
    changes[name](feeds);
    const { sample } = await program.run(feeds);
    expect(relativeError(sample, opened.io.get('out.sample')!)).toBeGreaterThan(20 * forwardLimit);
    await program.release();
  });
});

const scaled = ({ shape, data }: NDArray, factor: number): F32Array =>
  f32(
    Float32Array.from(data as Float32Array, (value) => value * factor),
    shape,
  );
