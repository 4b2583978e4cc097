/** The strength grammar means the same for every kind of adapter, and changing its values compiles nothing. */

import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { edit, EditConfig } from '@attune/adapter-edit';
import { lora } from '@attune/adapter-lora';
import { video, VideoConfig } from '@attune/adapter-video';
import {
  clipStrengths,
  compile,
  compose,
  ddimPlan,
  findPlugins,
  loadModel,
  materialize,
  type Model,
  ModelRunner,
  nominalDims,
  openStack,
  parseYaml,
  PluginLoader,
  readAdapterFile,
  sample,
  StackFile,
  standingFeeds,
  type Strength,
  strengthsAt,
} from '@attune/core';
import { randomised } from '@attune/core/testing';
import {
  type F32Array,
  f32,
  type NDArray,
  OrtRuntime,
  type Program,
  Rng,
  writeSafetensors,
} from '@attune/engine';
import { relativeError } from '@attune/engine/testing';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const fixtures = 'test/parity/fixtures';
const runtime = new OrtRuntime({ threads: 1 });
afterAll(() => runtime.release());

const dims = { B: 2, F: 3, H: 8, W: 8, L: 64 };
const { B, F } = dims;
const [T, steps] = [1000, 4];

let base: Model;
beforeAll(async () => {
  base = await loadModel(`${fixtures}/unet/pocket`);
});

const open = (name: string) => readAdapterFile(`${fixtures}/compose/pocket/${name}`);

/** Fresh parameters are drawn, so that the adapter acts. */
const acting = (model: Model): Model =>
  randomised(materialize(model, { dims: nominalDims, seed: 3 }), 4);

const motion = () => {
  const { config, weights } = open('video');
  return { config: VideoConfig.parse(config), weights };
};

/** One adapter of every kind, each acting at other layouts of values. */
const kinds: Readonly<Record<string, (strength: Strength) => Model>> = {
  'a LoRA of attention, feed-forward and convolutions': (strength) =>
    acting(
      compose(
        base,
        lora({
          name: 'it',
          rank: 2,
          strength,
          targets: [
            'unet.**.attn1.to_*',
            'unet.**.attn2.to_q',
            'unet.**.ff.net.0.proj',
            'unet.**.proj_in',
            'unet.**.conv1',
          ],
        }),
      ),
    ),
  'a LoRA of motion modules': (strength) =>
    acting(
      compose(
        base,
        video(motion()),
        lora({ name: 'it', rank: 2, strength, targets: ['video.**.to_*', 'video.**.proj_out'] }),
      ),
    ),
  'a ControlNet': (strength) => {
    const { config, weights } = open('edit');
    return compose(base, edit({ name: 'it', config: EditConfig.parse(config), weights, strength }));
  },
  'motion modules': (strength) => compose(base, video({ name: 'it', ...motion(), strength })),
};
const cases = Object.entries(kinds);

const drawn = (program: Program): Record<string, NDArray> =>
  Object.fromEntries(
    [...program.inputs]
      .filter(([name, { op }]) => op.name === 'input' && !name.startsWith('gate.'))
      .map(([name, { shape }]) => [
        name,
        name === 'timestep' ? f32([500], [1]) : Rng.of(3).fork(name).normals(shape),
      ]),
  );

/** The prediction at t = 500 with the strengths of frames from `frame` on. */
async function run(model: Model, frame = 0): Promise<F32Array> {
  const program = compile(model, { net: 'unet', dims }, { runtime });
  const out = await program.run({
    ...standingFeeds(model, program),
    ...clipStrengths(model, program, frame),
    ...strengthsAt(model, program, 500),
    ...drawn(program),
  });
  await program.release();
  return out.sample as F32Array;
}

const rowsOf = ({ data, shape }: F32Array, keep: (frame: number) => boolean): F32Array => {
  const size = data.length / shape[0];
  const rows = Array.from({ length: shape[0] }, (_, r) => r).filter((r) => keep(r % F));
  return f32(
    rows.flatMap((r) => [...data.subarray(r * size, (r + 1) * size)]),
    [rows.length, ...shape.slice(1)],
  );
};

const mask = (value: (y: number, x: number, f: number) => number, frames = 1): F32Array => {
  const [H, W] = [16, 16];
  const data = Array.from({ length: frames * H * W }, (_, i) =>
    value(Math.floor(i / W) % H, i % W, Math.floor(i / (H * W))),
  );
  return f32(data, frames === 1 ? [H, W] : [frames, H, W]);
};

describe.each(cases)('%s', (_, kind) => {
  test('equal factors of frames and of pixels are one number', async () => {
    const half = await run(kind(0.5));
    const one = await run(kind(1));
    expect(relativeError(half, one)).toBeGreaterThan(1e-3);
    const same: Strength[] = [
      { frames: [0.5] },
      { frames: [0.5, 0.5, 0.5] },
      { scale: 2, frames: [0.25] },
      { steps: [0.5] },
      { during: [0.4, 0.6], scale: 0.5 },
    ];
    for (const strength of same)
      expect(relativeError(await run(kind(strength)), half)).toBeLessThan(2e-5);
    expect(relativeError(await run(kind({ during: [0.6, 1] })), await run(kind(0)))).toBeLessThan(
      2e-5,
    );
  }, 240_000);

  test('a mask of one number is that number, where there are pixels', async () => {
    const half = await run(kind(0.5));
    for (const strength of [
      { mask: mask(() => 0.5) },
      { mask: mask(() => 0.25, 2), scale: 2 },
      { mask: mask(() => 1, F), frames: [0.5] },
    ])
      expect(relativeError(await run(kind(strength)), half)).toBeLessThan(2e-5);
  }, 240_000);
});

const conv = (strength: Strength, targets: readonly string[] = ['unet.**.conv1']): Model =>
  acting(compose(base, lora({ name: 'it', rank: 2, strength, targets })));

const frameOf = (whole: F32Array, f: number) => rowsOf(whole, (at) => at === f);

test('each frame has its own factor, counted from the first frame of the clip', async () => {
  const each = { frames: [0, 1, 0.5, 2] };
  const alone = async (value: number, f: number) => frameOf(await run(conv(value)), f);
  const all = await run(conv(each));
  const later = await run(conv(each), 2);
  for (const [f, value] of [0, 1, 0.5].entries())
    expect(relativeError(frameOf(all, f), await alone(value, f))).toBeLessThan(2e-5);
  // Of a part of a clip that begins at frame 2; the last factor holds on.
  for (const [f, value] of [0.5, 2, 2].entries())
    expect(relativeError(frameOf(later, f), await alone(value, f))).toBeLessThan(2e-5);
}, 240_000);

test('a mask acts where it is, at the size of the site', async () => {
  const at = 'layer:unet.conv_in';
  const values = async (strength: Strength): Promise<F32Array> => {
    const model = conv(strength, ['unet.conv_in']);
    const program = compile(model, { net: 'unet', dims, outputs: [at] }, { runtime });
    const out = await program.run({ ...standingFeeds(model, program), ...drawn(program) });
    await program.release();
    return out[at] as F32Array;
  };
  const [none, whole] = [await values(1e-9), await values(1)];
  // The left half, and half of the next column of 8, in frames 1 and later.
  const some = await values({ mask: mask((_, x, f) => (f > 0 && x < 9 ? 1 : 0), 2) });
  const width = none.shape[3];
  some.data.forEach((value, i) => {
    const x = i % width;
    const frame = Math.floor(i / (none.data.length / (B * F))) % F;
    const share = frame === 0 || x > 4 ? 0 : x < 4 ? 1 : 0.5;
    const expected = none.data[i] + share * (whole.data[i] - none.data[i]);
    expect(Math.abs(value - expected)).toBeLessThan(1e-5);
  });
}, 60_000);

test('a mask leaves keys and values of a text alone, even where they are as many as the pixels', async () => {
  const text = ['unet.**.attn2.to_k', 'unet.**.attn2.to_v'];
  const whole = await run(conv(1, text));
  expect(relativeError(await run(conv({ mask: mask(() => 0.5) }, text)), whole)).toBe(0);
  expect(relativeError(whole, await run(conv(0.5, text)))).toBeGreaterThan(1e-3);
}, 120_000);

async function encoded(strength: Strength): Promise<F32Array> {
  const model = conv(strength, ['text_encoder.**.q_proj']);
  const runner = new ModelRunner(model, runtime);
  const { states } = await runner.encodeText(['a cat', 'a dog']);
  await runner.release();
  return states;
}

test('factors by frame leave nets without frames alone: a text is of the whole clip', async () => {
  const half = await encoded(0.5);
  expect(relativeError(await encoded({ scale: 0.5, frames: [0, 1] }), half)).toBe(0);
  expect(relativeError(await encoded(1), half)).toBeGreaterThan(1e-3);
}, 60_000);

test('factors over the steps are those of the times', async () => {
  const plan = ddimPlan(base.schedule!, steps);
  expect(plan.steps.map(({ t }) => 1 - (t + 1) / T)).toEqual([0, 0.25, 0.5, 0.75]);
  const noise = Rng.of(8).normals([F, 4, 8, 8]);
  const sizes = { ...dims, B: 1, L: 16 };
  const { shape } = base.nets.unet.signature(sizes).encoder_hidden_states;
  const text = Rng.of(9).normals(shape);
  const sampled = async (strengths: readonly Strength[]): Promise<F32Array> => {
    let x = noise;
    // With several strengths one step at a time, each with a model of its own.
    for (const [i, strength] of strengths.entries()) {
      const runner = new ModelRunner(conv(strength), runtime);
      x = await sample(runner, {
        dims: sizes,
        branches: { full: { encoder_hidden_states: text } },
        guidance: {
          convention: 'uncond+s*delta',
          terms: [{ base: 'none', cond: 'full', scale: 1 }],
        },
        plan: { ...plan, steps: strengths.length === 1 ? plan.steps : [plan.steps[i]] },
        noise: x,
      });
      await runner.release();
    }
    return x;
  };
  const same = async (one: Strength, each: readonly Strength[]): Promise<void> =>
    expect(relativeError(await sampled([one]), await sampled(each))).toBeLessThan(2e-5);
  await same({ during: [0, 0.5] }, [1, 1, 0, 0]);
  await same({ during: [0.25, 1] }, [0, 1, 1, 1]);
  await same({ scale: 2, steps: [0, 1] }, [0, 0.5, 1, 1.5]);
}, 240_000);

const inputsOf = (strength: Strength) => {
  const program = compile(conv(strength), { net: 'unet', dims }, { runtime });
  return [...program.inputs].map(([name, { shape }]) => `${name} [${shape.join()}]`);
};

test('changing values compiles nothing', () => {
  const first = inputsOf({ scale: 1, steps: [1, 0], frames: [1, 2], mask: mask(() => 1) });
  expect(first).toContain('gate.it []');
  expect(first).toContain('gate.it.frames [3]');
  expect(first).toContain('gate.it.mask.8x8 [1,8,8]');
  const other = { scale: 3, during: [0, 0.2] as const, frames: [4], mask: mask((y) => y) };
  expect(inputsOf(other)).toEqual(first);
});

test('one program, compiled with some values, does what another compiled with other values does', async () => {
  const [some, other] = [
    { 'unet.down_blocks': { scale: 0.3, frames: [1, 2] }, default: 0.2 },
    { 'unet.down_blocks': { scale: -1, frames: [0.5] }, default: 2 },
  ].map((strength) => conv(strength));
  const program = compile(some, { net: 'unet', dims }, { runtime });
  const fed = async (model: Model): Promise<F32Array> => {
    const out = await program.run({ ...standingFeeds(model, program), ...drawn(program) });
    return out.sample as F32Array;
  };
  expect(relativeError(await fed(other), await run(other))).toBe(0);
  expect(relativeError(await fed(some), await run(other))).toBeGreaterThan(1e-3);
  await program.release();
}, 120_000);

describe('what cannot be a strength is refused', () => {
  test.each<[string, Strength, RegExp]>([
    ['no number', Number.NaN, /it: NaN is no finite number/],
    ['no factors', { frames: [] }, /it: frames is empty/],
    ['an infinite factor', { steps: [1, Infinity] }, /steps holds what is no finite number/],
    ['a part that ends before it begins', { during: [0.5, 0.2] }, /no part of the way/],
    ['a mask of four axes', { mask: f32([1], [1, 1, 1, 1]) }, /give \[H, W\] or \[F, H, W\]/],
    ['of an address', { 'unet.up_blocks.0': { during: [0, 2] } }, /it@unet.up_blocks.0: during/],
  ])('%s', (_, strength, message) => {
    expect(() => conv(strength)).toThrow(message);
  });
});

test('nothing acts where every factor is 0: the adapter is left out', () => {
  const nothing = [{ frames: [0, 0] }, { mask: mask(() => 0) }, { scale: 0 }, { steps: [0] }];
  for (const strength of nothing) expect(conv(strength).adapters).toHaveLength(0);
});

const fixture = (name: string) => join(process.cwd(), fixtures, name);

const parse = (strength: string) =>
  parseYaml(
    StackFile,
    `backbone: ${fixture('unet/pocket')}
adapters:
- use: lora
  from: ${fixture('compose/pocket/look.safetensors')}
  strength: ${strength}
`,
    'stack.yaml',
  );

test('stack files say the same', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'strength-'));
  const left = mask((_, x) => (x < 8 ? 1 : 0));
  writeSafetensors(join(folder, 'left.safetensors'), { mask: left }, {});
  const loader = new PluginLoader(findPlugins('packages/cli'));
  const given = `{ default: { during: [0, 0.5] }, unet.up_blocks: { frames: [1, 0.5], mask: left.safetensors } }`;
  const model = await openStack(parse(given), folder, loader);
  expect(model.adapters[0].strength).toEqual({
    default: { during: [0, 0.5] },
    'unet.up_blocks': { frames: [1, 0.5], mask: left },
  });
  expect(() => parse('{ during: [0, 0.5], scales: 2 }')).toThrow(/strength: unknown key "scales"/);
  expect(() => parse('soon')).toThrow(/strength: is a number, \{ scale/);
  await expect(openStack(parse('{ mask: left.png }'), folder, loader)).rejects.toThrow(
    /pictures are not read here/,
  );
});
