/** What a verdict says beside loadable or refused: what is taken for granted, by which name, and what does nothing. */

import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { checkpointPredicts, findPlugins, openStack, PluginLoader, StackFile } from '@attune/core';
import { f32, openSafetensors, Weights, writeSafetensors, zeros } from '@attune/engine';
import { expect, test } from 'vitest';

import { inspect, type Verdict } from '../packages/cli/src/inspect/verdict.ts';
import { attune } from './attune.ts';

const fixtures = 'test/parity/fixtures';
const loader = new PluginLoader(findPlugins('packages/cli'));

const verdictOn = (path: string): Promise<Verdict> => inspect(path, { loader });

test.each(['compose/pocket/video', 'checkpoints/motion.ckpt'])(
  'how the group norms of motion modules are taken, and the option that takes them otherwise: %s',
  async (file) => {
    const { verdict, chosen } = await verdictOn(join(fixtures, file));
    expect(verdict).toBe('loadable');
    expect(chosen).toMatch(/over all frames of a clip, as diffusers/);
    expect(chosen).toMatch(/norm: per_frame in the stack entry/);
  },
);

test.each([
  ['pocket', 'model', /unet/],
  ['pocket/aligned', 'stack', /align/],
])(
  'what the project brings is inspected by its name: %s',
  async (name, kind, algorithm) => {
    expect(await verdictOn(name)).toMatchObject({
      file: name,
      verdict: 'loadable',
      kind,
      algorithm: expect.stringMatching(algorithm) as string,
      modules: { unmatched: 0, misshaped: 0 },
    });
  },
  60_000,
);

test('a name that is none is told which there are', async () => {
  const { fix } = await verdictOn('pocket/alinged');
  expect(fix).toMatch(/pocket\/aligned/);
});

test('modules without effect are named, by inspect and by compose', () => {
  const source = openSafetensors(`${fixtures}/compose/pocket/look.safetensors`);
  const names = [...source.tensors.keys()];
  const ups = names.filter((name) => name.endsWith('lora_B.weight')).slice(0, 5);
  const tensors = names.map(
    (name) =>
      [name, ups.includes(name) ? zeros(source.read(name).shape) : source.read(name)] as const,
  );
  const path = join(mkdtempSync(join(tmpdir(), 'idle-')), 'look.safetensors');
  writeSafetensors(path, Object.fromEntries(tensors), source.metadata);
  const modules = ups.map((name) => name.replace('.lora_B.weight', ''));
  const first = `${modules.slice(0, 3).join(', ')} and 2 more`;
  expect(JSON.parse(attune('inspect', path, '--json').stdout)).toMatchObject({
    modules: { zeroEffect: 5 },
    idle: modules,
  });
  expect(attune('inspect', path).stdout).toContain(first);
  const base = `${fixtures}/unet/pocket`;
  const { status, stderr } = attune('compose', base, path, '--check', '--no-proof');
  expect(status).toBe(0);
  expect(stderr).toContain(`5 of 103 modules of lora change nothing, all zero: ${first}`);
}, 60_000);

const sd2 = (channels: number, bias: number) => ({
  'model.diffusion_model.input_blocks.0.0.weight': zeros([2, channels, 1, 1]),
  'model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight': zeros([1, 1024]),
  'model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias': f32(
    [bias, -bias, bias, -bias],
    [4],
  ),
});

test.each([
  ['2.1: a wide bias', sd2(4, 0.12), 'v_prediction', /0\.120: above 0\.09/],
  ['2.1-base: a narrow bias', sd2(4, 0.05), 'epsilon', /0\.050: at most 0\.09.*2\.1-base/],
  ["2's inpainting model", sd2(9, 0.12), 'epsilon', /9 channels/],
])(
  'what a single file of Stable Diffusion 2 predicts, and its sign: %s',
  (_, arrays, type, sign) => {
    const told = checkpointPredicts(Weights.fromArrays(arrays));
    expect(told).toEqual({ type, sign: expect.stringMatching(sign) as string });
  },
);

test('the verdict on a single file says what it is taken to predict; the option it names takes it otherwise', async () => {
  const path = `${fixtures}/checkpoints/sd2.safetensors`;
  const header = await verdictOn(path);
  expect(header.chosen).toMatch(/epsilon, by its header's modelspec\.prediction_type/);
  const source = openSafetensors(path);
  const tensors = [...source.tensors.keys()].map((name) => [name, source.read(name)] as const);
  const silent = join(mkdtempSync(join(tmpdir(), 'predicts-')), 'sd2.safetensors');
  writeSafetensors(silent, tensors);
  const { chosen } = await verdictOn(silent);
  const [, option] = /schedule: (\{.*?\})/.exec(chosen!)!;
  expect([chosen, option]).toEqual([
    expect.stringMatching(/as v_prediction/),
    '{ prediction_type: epsilon }',
  ]);
  const config = path.replace('.safetensors', '.configs');
  const opened = async (schedule: StackFile['schedule']) =>
    (await openStack(StackFile.parse({ backbone: silent, config, schedule }), '.', loader))
      .schedule!;
  const [own, other] = [await opened('default'), await opened({ prediction_type: 'epsilon' })];
  expect(own.predictionType).toBe('v_prediction');
  expect(other.config).toEqual({ ...own.config, prediction_type: 'epsilon' });
  expect((await verdictOn(`${fixtures}/checkpoints/sd1.ckpt`)).chosen).toBeNull();
});
