/** The delta of a teacher: its residual on the unedited original comes off. */

import { ModelRunner } from '@attune/core';
import { type F32Array, Rng } from '@attune/engine';
import { DistillConfig, ModelTeacher, sdsCotangent, type TeacherConfig } from '@attune/fdd';
import { describe, expect, test } from 'vitest';

import { batchOf, config, dims, run, runtime, teachers } from './distill-scene.ts';

const { edit: editor, video: mover } = config().teachers;
const sizes = { ...dims, H: dims.H / 4, W: dims.W / 4 };
const how = { weighting: 'add', scale: 1, samples: 2 } as const;

const delta = (more: object = {}): TeacherConfig['delta'] => ({
  of: 'source',
  view: {},
  drop: [],
  share: 1,
  ...more,
});

const rms = ({ data }: F32Array) => Math.sqrt(data.reduce((a, x) => a + x * x, 0) / data.length);

/** The originals' latents, and a teacher's pull on them with and without its delta. */
async function pulls(own: TeacherConfig['delta']) {
  const teacher = new ModelTeacher(
    'edit',
    new ModelRunner(teachers.edit, runtime),
    { ...editor, delta: own },
    sizes,
  );
  const batch = await batchOf();
  const ready = await teacher.ready(batch);
  const origin = (await teacher.origin(batch))!;
  const plain = await sdsCotangent(ready, origin.x0, how, Rng.of(3));
  const less = await sdsCotangent(
    ready,
    origin.x0,
    { ...how, origin, share: own ? own.share : 0 },
    Rng.of(3),
  );
  await teacher.release();
  return { x0: origin.x0, plain: rms(plain), less: rms(less) };
}

test('what is as the original, shown as the original, is not pulled at all', async () => {
  const { x0, plain, less } = await pulls(delta());
  expect(x0.shape).toEqual([dims.F, 4, sizes.H, sizes.W]);
  expect(plain).toBeGreaterThan(1e-5);
  expect(less).toBeLessThan(1e-12);
});

test.each([
  ['without the instruction', { drop: ['edit.encoder_hidden_states'] }],
  ['with another caption', { view: { encoder_hidden_states: 'text.instruction' } }],
  ['in part', { share: 0.5 }],
])('the original shown %s: a pull remains', async (_, more) => {
  const { plain, less } = await pulls(delta(more));
  expect(less).toBeGreaterThan(1e-3 * plain);
});

test('a teacher without one has no original', async () => {
  const teacher = new ModelTeacher('edit', new ModelRunner(teachers.edit, runtime), editor, sizes);
  expect(await teacher.origin(await batchOf())).toBeUndefined();
});

test('it trains, and resumes to the same bytes', async () => {
  const own = config({
    teachers: {
      video: { ...mover, critic: false, delta: {} },
      edit: { ...editor, critic: false, delta: { drop: ['edit.encoder_hidden_states'] } },
    },
    phases: [{ until: 2 }],
  });
  const [first, second] = await run(own);
  expect(second.params).not.toEqual(first.params);
  expect((await run(own, first))[0].params).toEqual(second.params);
}, 180_000);

const short = (edit: object) =>
  DistillConfig.parse({
    ...config(),
    teachers: { edit: { ...editor, critic: false, ...edit } },
    phases: [{ until: 1 }],
  });

describe('refused', () => {
  test('beside a fake score', () => {
    const fake = { adapters: [{ use: 'lora', train: true }] };
    expect(() => short({ fake, delta: {} })).toThrow(/against a fake score or against an original/);
  });

  test.each([
    [
      'of a field that is not there',
      { of: 'sauce' },
      /delta\.of asks the data for "sauce".*source/,
    ],
    [
      'a view of what nothing takes',
      { view: { 'edit.imag': 'source' } },
      /edit\.delta\.view: nothing of the stack takes edit\.imag; nearest: edit\.image/,
    ],
    [
      'leaving out what the view has not',
      { drop: ['edit.imag'] },
      /edit\.delta: edit\.imag is to be left out/,
    ],
  ])('%s', async (_, own, message) => {
    await expect(run(short({ delta: own }))).rejects.toThrow(message);
  });
});
