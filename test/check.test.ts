/** Conflicts of a stack are found from headers and configs, say what to change, and come before any weight is read. */

import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import {
  checkStack,
  type Finding,
  findPlugins,
  openStack,
  PluginLoader,
  readStackParts,
  StackFile,
} from '@attune/core';
import { f32, openSafetensors, Rng, writeSafetensors } from '@attune/engine';
import { describe, expect, test } from 'vitest';

const fixtures = resolve('test/parity/fixtures');
const composed = `${fixtures}/compose/pocket`;
const loader = new PluginLoader(findPlugins('packages/cli'));
const fresh = () => mkdtempSync(join(tmpdir(), 'check-'));

/** Stable Diffusion 1's own. */
const sd1 = {
  beta_schedule: 'scaled_linear',
  beta_start: 0.00085,
  beta_end: 0.012,
  prediction_type: 'epsilon',
};
const motion = {
  use: 'video',
  from: `${fixtures}/checkpoints/motion.ckpt`,
  // What no file tells.
  motion_num_attention_heads: 4,
  motion_norm_num_groups: 2,
};

type Entry = Readonly<Record<string, unknown>>;
const stackOf = (backbone: string, adapters: readonly Entry[], rest: Entry = {}) =>
  StackFile.parse({ backbone: `${fixtures}/${backbone}`, adapters, ...rest });
const parts = (...of: Parameters<typeof stackOf>) => readStackParts(stackOf(...of), '.', loader);

async function findings(
  backbone: string,
  adapters: readonly Entry[],
  rest: Entry & { readonly frames?: number } = {},
): Promise<Finding[]> {
  const { frames, ...stack } = rest;
  return checkStack(await parts(backbone, adapters, stack), frames === undefined ? {} : { frames });
}

const edit = (strength: unknown) =>
  findings('unet/pocket', [{ use: 'edit', from: `${composed}/edit`, strength }]);

test('a strength for a place where its adapter does not act', async () => {
  const [found, ...more] = await edit({ default: 1, 'unet.mid_blck': 0, 'unet.mid_block': 0.5 });
  expect(more).toEqual([]);
  expect(found).toMatchObject({ level: 'warning', topic: 'strength' });
  expect(found.text).toContain('the strength of edit at unet.mid_blck changes nothing');
  expect(found.fix).toContain('unet.mid_block');
  expect(await edit({ 'unet.skips': 0.5 })).toEqual([]);
  expect(await edit(0)).toEqual([]);
});

const idle = (strength: unknown) =>
  findings('unet/pocket', [
    { use: 'lora', rank: 2, targets: ['unet.**.attn2.to_*', 'unet.**.conv1'], strength },
  ]);

describe('what of a strength means nothing', () => {
  const folder = fresh();
  const mask = join(folder, 'left.safetensors');
  writeSafetensors(mask, { mask: f32([1, 0], [1, 2]) }, {});
  test('a mask where there are no pixels, by place', async () => {
    const [found, ...more] = await idle({ mask });
    expect(more).toEqual([]);
    expect(found).toMatchObject({ level: 'warning', topic: 'strength' });
    expect(found.text).toMatch(
      /^the mask of lora means nothing at \d+ of the \d+ places where it acts, which have no pixels \(/,
    );
    for (const name of ['to_k', 'to_v'])
      expect(found.text).toMatch(new RegExp(`unet\\.[\\w.*]+\\.attn2\\.${name} × \\d`));
    expect(found.text).not.toMatch(/conv1|to_q|to_out/);
    // An editor acts where there are pixels alone.
    expect(await edit({ mask })).toEqual([]);
    // Not where a number of its own holds.
    const numbers = { default: 0.5, 'unet.down_blocks.1.resnets.0.conv1': { mask } };
    expect(await idle(numbers)).toEqual([]);
  });

  test('all that varies, in a net without pixels, frames and times', async () => {
    const encoder = { use: 'lora', rank: 2, targets: ['text_encoder.**.q_proj'] };
    const strength = { scale: 0.5, frames: [1, 0], mask, during: [0, 0.5] };
    const found = await findings('unet/pocket', [{ ...encoder, strength }]);
    expect(found.map(({ text }) => text.replace(/\(.*\)/, '(…)'))).toEqual([
      'the mask of lora means nothing at all places where it acts, which have no pixels (…): there the rest of its strength applies alone',
      'the factors by frame of lora mean nothing at all places where it acts, which have no frames (…): there the rest of its strength applies alone',
      'the changes over the steps of lora mean nothing at all places where it acts, which have no times (…): there the rest of its strength applies alone',
    ]);
    expect(found[0].text).toMatch(/\(text_encoder\.[\w.*]+\.q_proj × \d\)/);
  });
});

test('stacks that fit have no findings', async () => {
  const whole = ['edit', 'video', 'look', 'sway'].map((name) =>
    name === 'edit' || name === 'video'
      ? { use: name, from: `${composed}/${name}` }
      : { name, use: 'lora', from: `${composed}/${name}.safetensors` },
  );
  expect(await findings('unet/pocket', whole, { frames: 2 })).toEqual([]);
});

describe('noise and prediction', () => {
  test('AnimateDiff on Stable Diffusion: a warning with the times of equal noise', async () => {
    const single = { config: `${fixtures}/checkpoints/sd1.configs` };
    const found = await findings('checkpoints/sd1.ckpt', [motion], single);
    expect(found).toMatchObject([{ level: 'warning', topic: 'schedule' }]);
    expect(found[0].text).toContain('video was trained with linear β 0.00085–0.012');
    expect(found[0].text).toContain('the noise of t = 499 there is that of t = 599 here');
    const [, schedule] = /schedule: (\{.*\})/.exec(found[0].fix)!;
    expect(JSON.parse(schedule)).toMatchObject({ beta_schedule: 'linear' });
    // What it says to change is what ends it.
    const changed = { schedule: JSON.parse(schedule) as object };
    expect(await findings('checkpoints/sd1.ckpt', [motion], { ...single, ...changed })).toEqual([]);
    const said = [{ ...motion, trained_with: { beta_schedule: 'scaled_linear' } }];
    expect(await findings('checkpoints/sd1.ckpt', said, single)).toEqual([]);
  });

  test('another prediction: a warning where it is assumed, an error where file or entry say so', async () => {
    const v = { schedule: { ...sd1, prediction_type: 'v_prediction' } };
    expect(await findings('unet/sd15', [motion], v)).toMatchObject([
      { level: 'warning', topic: 'prediction' },
    ]);
    const look = { use: 'lora', from: `${composed}/look.safetensors` };
    const entry = [{ ...look, trained_with: { prediction_type: 'epsilon' } }];
    expect(await findings('unet/pocket', entry)).toMatchObject([
      { level: 'error', topic: 'prediction' },
    ]);
    for (const said of [
      { 'modelspec.prediction_type': 'epsilon' },
      { 'attune.trained_with': '{"prediction_type":"epsilon"}' },
    ]) {
      const file = join(fresh(), 'look.safetensors');
      const source = openSafetensors(look.from);
      const tensors = Object.fromEntries(
        [...source.tensors.keys()].map((k) => [k, source.read(k)]),
      );
      writeSafetensors(file, tensors, { ...source.metadata, ...said });
      expect(await findings('unet/pocket', [{ ...look, from: file }])).toMatchObject([
        {
          level: 'error',
          text: expect.stringMatching(/^lora was trained .*epsilon.*v_prediction/),
        },
      ]);
      await expect(
        openStack(stackOf('unet/pocket', [{ ...look, from: file }]), '.', loader),
      ).rejects.toMatchObject({ code: 'STACK_CONFLICT' });
      // The entry overrules the file.
      const ruled = { ...look, from: file, trained_with: { prediction_type: 'v_prediction' } };
      expect(await findings('unet/pocket', [ruled])).toEqual([]);
    }
  });

  test("a schedule of the stack that takes the output for another than the backbone's own", async () => {
    expect(await findings('unet/pocket', [], { schedule: sd1 })).toMatchObject([
      { level: 'warning', topic: 'prediction', fix: expect.stringContaining('v_prediction') },
    ]);
  });
});

describe('another model', () => {
  test('a text of another width, in the words of the port', async () => {
    const found = await findings('unet/sd2', [{ use: 'edit', from: `${composed}/edit` }]);
    expect(found.map(({ level, topic }) => [level, topic])).toContainEqual(['error', 'port']);
    expect(found.find(({ topic }) => topic === 'port')!.text).toBe(
      "edit.encoder_hidden_states takes rows of [L, 24], the backbone's encoder_hidden_states has [L, 20]",
    );
    expect(found.find(({ topic }) => topic === 'base')!.text).toBe(
      'edit was made for text width 24, the backbone is text width 20',
    );
  });

  test('a LoRA of another text width names both families', async () => {
    const key = 'unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k';
    const from = join(fresh(), 'wide.safetensors');
    writeSafetensors(from, {
      [`${key}.lora_A.weight`]: Rng.of(1).normals([4, 24]),
      [`${key}.lora_B.weight`]: Rng.of(2).normals([16, 4]),
    });
    await expect(
      openStack(stackOf('unet/sd2', [{ use: 'lora', from }]), '.', loader),
    ).rejects.toThrow(/lora was made for text width 24, the backbone is text width 20/);
  });

  test('more input channels: the weights that do not fit, with both shapes', async () => {
    const whole = { use: 'edit', from: `${fixtures}/compose/sd15/edit` };
    expect(await findings('unet/sd15', [whole])).toEqual([]);
    const found = await findings('unet/inpaint', [whole]);
    expect(found).toMatchObject([{ level: 'error', topic: 'base' }]);
    expect(found[0].text).toMatch(/conv_in|does not fit together/);
  });
});

describe('order', () => {
  const video = { use: 'video', from: `${composed}/video` };
  const sway = { name: 'sway', use: 'lora', from: `${composed}/sway.safetensors` };

  test('an adapter inside another has to come after it', async () => {
    await expect(parts('unet/pocket', [sway, video])).rejects.toThrow(
      'sway acts inside video, which comes after it in the stack: put sway after video.',
    );
    expect(await findings('unet/pocket', [video, sway])).toEqual([]);
  });

  test('two that act at the same places and do not commute', async () => {
    const found = await findings('unet/pocket', [video, { ...video, name: 'second' }]);
    expect(found).toMatchObject([{ level: 'warning', topic: 'order' }]);
    expect(found[0].text).toMatch(/^video and second both act at \d+ places \(first hidden:unet/);
  });
});

test('more frames than an adapter sees', async () => {
  const video = { use: 'video', from: `${composed}/video` };
  const most = (
    JSON.parse(readFileSync(`${composed}/video/config.json`, 'utf8')) as {
      motion_max_seq_length: number;
    }
  ).motion_max_seq_length;
  expect(await findings('unet/pocket', [video], { frames: most })).toEqual([]);
  expect(await findings('unet/pocket', [video], { frames: most + 1 })).toMatchObject([
    { level: 'error', topic: 'frames', fix: expect.stringContaining(`--window ${most}`) },
  ]);
  await expect(
    openStack(stackOf('unet/pocket', [video]), '.', loader, { frames: most + 1 }),
  ).rejects.toMatchObject({ code: 'STACK_CONFLICT' });
});

test('a port that nothing feeds, and one whose default the backbone lacks', async () => {
  const whole = await parts('unet/pocket', []);
  const ports = {
    mood: { per: 'clip', shape: () => [3] },
    other: { per: 'clip', shape: () => [3], defaultTo: 'clip_skip' },
  } as const;
  const adapter = { name: 'own', ports, attach: () => [] };
  const part = {
    entry: { use: 'own' },
    kind: { options: undefined as never, create: () => adapter },
    options: {},
    adapter,
    declared: {},
  };
  expect(checkStack({ ...whole, parts: [part] })).toMatchObject([
    { level: 'warning', topic: 'port', text: expect.stringContaining('own.mood') },
    { level: 'error', topic: 'port', text: expect.stringContaining('clip_skip') },
  ]);
});

/** Bytes that this process has read so far, by the kernel's count. */
function bytesRead(): number {
  const [, count] = /rchar: (\d+)/.exec(readFileSync('/proc/self/io', 'utf8'))!;
  return Number(count);
}

test.runIf(process.platform === 'linux')('no weight is read', async () => {
  const from = resolve('packages/pocket/stacks');
  const stack = StackFile.parse({
    backbone: '../models',
    adapters: [
      { use: 'edit', from: '../adapters/edit' },
      { use: 'video', from: '../adapters/video' },
    ],
  });
  const check = async () => checkStack(await readStackParts(stack, from, loader));
  await check(); // imports the plugins' code
  const before = bytesRead();
  expect(await check()).toEqual([]);
  // 23 MB of weights; headers, configs and the tokenizer are a few hundred kilobytes.
  expect(bytesRead() - before).toBeLessThan(1_000_000);
});

test('a declaration that is no scheduler config is refused with the place', async () => {
  const entry = { use: 'lora', from: `${composed}/look.safetensors` };
  await expect(
    parts('unet/pocket', [{ ...entry, trained_with: { prediction_type: 'noise' } }]),
  ).rejects.toThrow(/adapter lora: trained_with: prediction_type/);
});
