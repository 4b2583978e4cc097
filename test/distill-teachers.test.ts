/** Teachers of a distillation: a ControlNet in guess mode under guidance, and fake scores. */

import { edit, EditConfig } from '@attune/adapter-edit';
import { compose, ddimPlan, mix, type Model, ModelRunner, type Strength } from '@attune/core';
import { type F32Array, f32, Rng } from '@attune/engine';
import { relativeError } from '@attune/engine/testing';
import { distill, type DistillState, FakeScore, ModelTeacher } from '@attune/fdd';
import { describe, expect, test } from 'vitest';

import {
  base,
  batchOf,
  config,
  data,
  dims,
  fakes,
  latentShape,
  open,
  run,
  runtime,
  student,
  teachers,
} from './distill-scene.ts';

/** The batch's first frame alone. */
async function firstFrame() {
  const { arrays, text } = await batchOf();
  const { data: pixels } = arrays.source as F32Array;
  const source = f32(pixels.subarray(0, 3 * dims.H * dims.W), [1, 3, dims.H, dims.W]);
  return { arrays: { source }, text };
}

describe('a ControlNet in guess mode acts only where a teacher has the full condition', () => {
  const shape = [1, 4, dims.H / 4, dims.W / 4];
  const sizes = { ...dims, F: 1, H: dims.H / 4, W: dims.W / 4 };
  const guiding = {
    ...config().teachers.edit,
    guidance: { scale: 3, drop: ['encoder_hidden_states'], rescale: 0 },
    sampling: { steps: 1 },
  };
  const teacherOf = (model: Model, scale: number) =>
    new ModelTeacher(
      'edit',
      new ModelRunner(model, runtime),
      { ...guiding, guidance: { ...guiding.guidance, scale } },
      sizes,
    );
  test.each<[string, Strength]>([
    ['of one strength', 1],
    ['whose strength falls over the steps', { scale: 1, steps: [1, 0.5] }],
  ])('%s: in its pull and in its samples', async (_, strength) => {
    const { config: given, weights } = open('edit');
    const guess = EditConfig.parse({ ...(given as object), guess_mode: true });
    const model = compose(base, edit({ config: guess, weights, strength }));
    const noise = Rng.of(8).normals(shape);
    const batch = await firstFrame();
    const predict = async (of: Model, scale: number, t: number) => {
      const teacher = teacherOf(of, scale);
      const guided = await (await teacher.ready(batch)).predict(noise, t);
      await teacher.release();
      return guided;
    };
    // By hand: without the words the backbone alone, with them the whole stack.
    const { view } = guiding;
    const bare = new ModelTeacher(
      'bare',
      new ModelRunner(base, runtime),
      {
        ...guiding,
        view: { encoder_hidden_states: view.encoder_hidden_states },
        guidance: { scale: 0, drop: ['encoder_hidden_states'], rescale: 0 },
      },
      sizes,
    );
    const alone = await bare.ready(batch);
    const byHand = async (t: number) =>
      mix({ cx: -2, cp: 3 }, await alone.predict(noise, t), await predict(model, 1, t));
    for (const t of [100, 900])
      expect(relativeError(await predict(model, 3, t), await byHand(t))).toBeLessThan(1e-6);
    const teacher = teacherOf(model, 3);
    const drawn = await teacher.draw(batch, noise, Rng.of(9));
    const { start, steps } = ddimPlan(base.schedule!, 1, { spacing: 'trailing' });
    expect(start).toBe(1);
    const wanted = mix(steps[0], noise, await byHand(steps[0].t));
    expect(relativeError(drawn, wanted)).toBeLessThan(1e-6);
    await Promise.all([bare.release(), teacher.release()]);
  });
});

describe('fake scores', () => {
  const fake = { adapters: [{ use: 'lora', train: true }], lr: 1e-2 };
  const { video: videoTeacher, edit: editTeacher } = config().teachers;
  const opposed = (phases: readonly unknown[]) =>
    config({
      teachers: {
        video: { ...videoTeacher, critic: false, fake },
        edit: { ...editTeacher, critic: false, guidance: {}, fake: { ...fake, share: 0.5 } },
      },
      phases,
    });

  function openFake(draws: number): FakeScore {
    const sizes = { ...dims, H: dims.H / 4, W: dims.W / 4 };
    const own = opposed([{ until: 1 }]).teachers.edit.fake;
    return new FakeScore(
      'edit',
      new ModelRunner(fakes.edit, runtime),
      { ...(own as Exclude<typeof own, false>), draws },
      { view: editTeacher.view, dims: sizes, bytes: 2 ** 30 },
    );
  }

  test('begin as their teacher: the first pull of a whole share is zero', async () => {
    const own = opposed([{ until: 2 }]);
    const rng = Rng.of(own.seed);
    const all = distill({ student, teachers, fakes, data, config: own, runtime, rng });
    const { value: first } = await all.next();
    expect(first!.report.pulls.video.sds).toBeLessThan(1e-8);
    expect(first!.report.pulls.edit.sds).toBeGreaterThan(1e-6);
    const { value: second } = await all.next();
    expect(second!.report.pulls.video.sds).toBeGreaterThan(1e-7);
    await all.return(undefined);
  }, 180_000);

  test('learn alone in a phase without the student, and resume to the same bytes', async () => {
    const own = opposed([{ until: 2, student: false }, { until: 3 }]);
    const whole = await run(own);
    const [first, second, third] = whole;
    expect(second.params).toEqual(student0(second));
    expect(second.fakes.video.params).not.toEqual(first.fakes.video.params);
    expect(second.fakes.edit.params).not.toEqual(first.fakes.edit.params);
    expect(third.params).not.toEqual(second.params);
    const resumed = await run(own, second);
    expect(resumed[0].params).toEqual(third.params);
    expect(resumed[0].fakes).toEqual(third.fakes);
  }, 180_000);

  test('descend the gradient of their loss', async () => {
    const score = openFake(3);
    const x0 = Rng.of(21).normals(latentShape);
    const at = score.initial();
    for (const name of score.names)
      if (name.endsWith('lora_B.weight'))
        at[name] = Rng.of(5)
          .fork(name)
          .normals([at[name].length])
          .data.map((x) => 0.1 * x);
    const learn = async (params: Record<string, Float32Array>) =>
      (await score.ready(params, await batchOf())).learn(x0, Rng.of(22));
    const { grads } = await learn(at);
    const way = Object.fromEntries(
      score.names.map((name) => [name, Rng.of(7).fork(name).normals([at[name].length]).data]),
    );
    let exact = 0;
    for (const name of score.names)
      grads[name].data.forEach((g, i) => {
        exact += g * way[name][i];
      });
    const eps = 2e-3;
    const moved = async (by: number) =>
      (
        await learn(
          Object.fromEntries(
            score.names.map((name) => [name, at[name].map((x, i) => x + by * way[name][i])]),
          ),
        )
      ).loss;
    const numeric = ((await moved(eps)) - (await moved(-eps))) / (2 * eps);
    expect(Math.abs(exact - numeric) / Math.abs(numeric)).toBeLessThan(2e-2);
    await score.release();
  }, 180_000);
});

/** What the student of the tests starts from. */
const student0 = ({ params }: DistillState) =>
  Object.fromEntries(
    Object.keys(params).map((name) => [name, student.weights.entry(name).load().data]),
  );
