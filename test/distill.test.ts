/** Distillation of an edit + video stack on tiny random models: what must hold whatever the weights. */

import { mkdtempSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { edit, EditConfig } from '@attune/adapter-edit';
import { lora } from '@attune/adapter-lora';
import { video, VideoConfig } from '@attune/adapter-video';
import {
  compose,
  type DataSource,
  ddimPlan,
  loadModel,
  materialize,
  mix,
  type Model,
  ModelRunner,
  nominalDims,
  readAdapterFile,
  sample,
  type Strength,
} from '@attune/core';
import { type F32Array, f32, OrtRuntime, Rng, Weights, writeSafetensors } from '@attune/engine';
import { relativeError } from '@attune/engine/testing';
import {
  distill,
  DistillConfig,
  type DistillState,
  FakeScore,
  ModelTeacher,
  Student,
} from '@attune/fdd';
import { beforeAll, describe, expect, test } from 'vitest';

const fixtures = 'test/parity/fixtures';
const runtime = new OrtRuntime({ threads: 1 });
const dims = { B: 1, F: 3, H: 32, W: 32, L: 16 };

const open = (name: string) => readAdapterFile(`${fixtures}/compose/pocket/${name}`);

let base: Model;
let plain: Model;
let student: Model;
let teachers: Record<string, Model>;
let fakes: Record<string, Model>;

beforeAll(async () => {
  base = await loadModel(`${fixtures}/unet/pocket`);
  const [v, e] = [open('video'), open('edit')];
  const motion = video({ config: VideoConfig.parse(v.config), weights: v.weights });
  const editor = edit({ config: EditConfig.parse(e.config), weights: e.weights });
  plain = compose(base, motion, editor);
  const align = lora({ name: 'align', rank: 2, train: true });
  student = materialize(compose(plain, align), { dims: nominalDims, seed: 4 });
  teachers = { video: compose(base, motion), edit: compose(base, editor) };
  const other = lora({ name: 'fake', rank: 2, train: true });
  fakes = Object.fromEntries(
    Object.entries(teachers).map(([id, teacher]) => [
      id,
      materialize(compose(teacher, other), { dims: nominalDims, seed: 5 }),
    ]),
  );
});

const data: DataSource = {
  dims: { F: dims.F, H: dims.H, W: dims.W, L: dims.L },
  length: 4,
  batch: (ids, rng) => {
    const size = dims.F * 3 * dims.H * dims.W;
    const pixels = new Float32Array(ids.length * size);
    ids.forEach((id, i) => {
      const own = rng.fork(id);
      for (let k = 0; k < size; k++) pixels[i * size + k] = own.uniform();
    });
    return { source: f32(pixels, [ids.length * dims.F, 3, dims.H, dims.W]) };
  },
  prompts: (ids) => ({
    caption: ids.map((id) => ['a cat', 'a red dog', 'two cats', 'the sea'][id % 4]),
    instruction: ids.map(() => 'make it red'),
  }),
};

/** A recipe over the models above; stacks are given as models, so their files are not read. */
function config(changes: Record<string, unknown> = {}): DistillConfig {
  const stack = { backbone: 'given' };
  const captions = { encoder_hidden_states: 'text.caption' };
  const editing = {
    ...captions,
    'edit.encoder_hidden_states': 'text.instruction',
    'edit.image': 'source',
  };
  const critic = { features: ['mid:unet.mid_block', 'hidden:unet.up_blocks.1.hidden.0'], width: 8 };
  return DistillConfig.parse({
    student: { stack, view: editing },
    teachers: {
      video: {
        stack,
        view: captions,
        critic: { ...critic, temporal: true },
        sampling: { steps: 2 },
      },
      edit: { stack, view: editing, guidance: { scale: 2 }, critic, sampling: { steps: 2 } },
    },
    rollout: { steps: 3 },
    phases: [
      { until: 2, sds: true, adversarial: false },
      { until: 4, sds: true, adversarial: true },
    ],
    batch: 2,
    micro: 1,
    lr: 1e-3,
    ema: 0.9,
    ...changes,
  });
}

async function run(own: DistillConfig, from?: DistillState) {
  const states: DistillState[] = [];
  const rng = Rng.of(own.seed);
  for await (const { state, report } of distill(
    { student, teachers, fakes, data, config: own, runtime, rng },
    from,
  )) {
    expect(Number.isFinite(report.gradNorm)).toBe(true);
    expect(report.skipped).toBe(false);
    states.push(state);
  }
  return states;
}

const latentShape = [dims.F, 4, dims.H / 4, dims.W / 4];

/** One batch of the data as a student reads it. */
const batchOf = async () => ({
  arrays: await data.batch([0], Rng.of(1)),
  text: data.prompts!([0], Rng.of(1)),
});

/** The student of the tests with its LoRA at other sites. */
function studentWith(targets: readonly string[]): Model {
  const align = lora({ name: 'align', rank: 2, train: true, targets });
  return materialize(compose(plain, align), { dims: nominalDims, seed: 4 });
}

function openStudent(model: Model, k: number, remat = 'none'): Student {
  const own = config({ rollout: { steps: k, remat } });
  const sizes = { ...dims, H: dims.H / 4, W: dims.W / 4 };
  return new Student(new ModelRunner(model, runtime), own.student.view, sizes, own.rollout);
}

test('before its first step the student generates what the plain stack does', async () => {
  const noise = Rng.of(2).normals(latentShape);
  const aligned = openStudent(student, 3);
  const { rolled, times } = await aligned.generate(
    aligned.initial(),
    await batchOf(),
    noise,
    Rng.of(3),
  );
  const runner = new ModelRunner(plain, runtime);
  const prompts = await runner.encodeText(['a cat']);
  const instruction = await runner.encodeText(['make it red']);
  const { arrays } = await batchOf();
  const latents = await sample(runner, {
    dims: { ...dims, H: dims.H / 4, W: dims.W / 4 },
    branches: {
      full: {
        encoder_hidden_states: prompts.states,
        'edit.encoder_hidden_states': instruction.states,
        'edit.image': arrays.source,
      },
    },
    guidance: { convention: 'uncond+s*delta', terms: [{ base: 'none', cond: 'full', scale: 1 }] },
    plan: ddimPlan(plain.schedule!, times),
    noise,
  });
  expect(relativeError(rolled.latents, latents)).toBeLessThan(1e-6);
  await runner.release();
  await aligned.release();
});

describe('the gradient through k steps equals central differences', () => {
  const everywhere = ['unet.**.attn*.to_v', 'text_encoder.**.q_proj', 'text_encoder.**.v_proj'];
  test.each([
    { name: 'k = 1', k: 1 },
    { name: 'k = 2', k: 2 },
    { name: 'k = 3', k: 3 },
    { name: 'k = 4', k: 4 },
    { name: 'k = 2, the text encoder learns too', k: 2, targets: everywhere },
    {
      name: 'k = 3, the text encoder learns alone',
      k: 3,
      targets: everywhere.slice(1),
      remat: 'step',
    },
  ])(
    '$name',
    async ({ k, targets, remat = 'none' }) => {
      const own = openStudent(targets ? studentWith(targets) : student, k, remat);
      const reads = own.names.some((name) => name.includes('text_encoder'));
      expect(reads).toBe(targets !== undefined);
      const batch = await batchOf();
      const noise = Rng.of(2).normals(latentShape);
      const at = own.initial();
      for (const name of own.names)
        if (name.endsWith('lora_B.weight'))
          at[name] = Rng.of(5)
            .fork(name)
            .normals([at[name].length])
            .data.map((x) => 0.1 * x);
      const cotangent: F32Array = Rng.of(6).normals(latentShape);
      const score = async (params: Record<string, Float32Array>) => {
        const { rolled } = await own.generate(params, batch, noise, Rng.of(3));
        return rolled.latents.data.reduce((sum, x, i) => sum + x * cotangent.data[i], 0);
      };
      const { back } = await own.generate(at, batch, noise, Rng.of(3));
      const { grads } = await back(cotangent);
      const way = Object.fromEntries(
        own.names.map((name) => [name, Rng.of(7).fork(name).normals([at[name].length]).data]),
      );
      let exact = 0;
      for (const name of own.names)
        grads[name].data.forEach((g, i) => {
          exact += g * way[name][i];
        });
      const eps = 2e-3;
      const moved = (by: number) =>
        Object.fromEntries(
          own.names.map((name) => [name, at[name].map((x, i) => x + by * way[name][i])]),
        );
      const numeric = ((await score(moved(eps))) - (await score(moved(-eps)))) / (2 * eps);
      expect(Math.abs(exact - numeric) / Math.abs(numeric)).toBeLessThan(2e-2);
      await own.release();
    },
    180_000,
  );
});

test('both phases run, move the parameters, and a resumed run ends in the same bytes', async () => {
  const whole = await run(config());
  expect(whole).toHaveLength(4);
  const [first, , third, last] = whole;
  const moved = Object.entries(last.params).some(([name, p]) =>
    p.some((x, i) => x !== first.params[name][i]),
  );
  expect(moved).toBe(true);
  expect(Object.keys(third.critics).toSorted()).toEqual(['edit', 'video']);
  const resumed = await run(config(), third);
  expect(resumed).toHaveLength(1);
  expect(resumed[0].params).toEqual(last.params);
  expect(resumed[0].ema).toEqual(last.ema);
  expect(resumed[0].critics).toEqual(last.critics);
}, 180_000);

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
  const read = async () => {
    const { arrays, text } = await batchOf();
    const { data: pixels } = arrays.source as F32Array;
    const source = f32(pixels.subarray(0, 3 * dims.H * dims.W), [1, 3, dims.H, dims.W]);
    return { arrays: { source }, text };
  };

  test.each<[string, Strength]>([
    ['of one strength', 1],
    ['whose strength falls over the steps', { scale: 1, steps: [1, 0.5] }],
  ])('%s: in its pull and in its samples', async (_, strength) => {
    const { config: given, weights } = open('edit');
    const guess = EditConfig.parse({ ...(given as object), guess_mode: true });
    const model = compose(base, edit({ config: guess, weights, strength }));
    const noise = Rng.of(8).normals(shape);
    const batch = await read();
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

test('every switch runs', async () => {
  const short = { phases: [{ until: 1, sds: true, adversarial: true }], batch: 1 };
  const rollouts = [
    { bins: 'fixed' },
    { bins: 'random' },
    { first: 'uniform' },
    { grad: { last: 1 } },
    { grad: 'detach-input' },
    { remat: 'step' },
    { remat: 'segment' },
  ];
  for (const rollout of rollouts) {
    const states = await run(config({ ...short, rollout: { steps: 2, ...rollout } }));
    expect(states).toHaveLength(1);
  }
}, 400_000);

test('a teacher edits the first frames that the video adapter reads: once for each clip, kept in the pool', async () => {
  const { weights, config: kind } = open('video');
  const widened = Rng.of(9).normals([8, 5, 3, 3]);
  const motion = video({
    config: { ...VideoConfig.parse(kind), first_frame: true },
    weights: Weights.overlay(weights, Weights.fromArrays({ 'conv_in.weight': widened })),
  });
  const editor = teachers.edit.adapters[0];
  const align = lora({ name: 'align', rank: 2, train: true });
  const stacks = {
    student: materialize(compose(base, motion, editor, align), { dims: nominalDims, seed: 4 }),
    teachers: { video: compose(base, motion), edit: teachers.edit },
  };
  const own = config();
  const given = { 'video.first_frame': 'first_frame' };
  const recipe = config({
    student: { ...own.student, view: { ...own.student.view, ...given } },
    teachers: {
      video: { ...own.teachers.video, view: { ...own.teachers.video.view, ...given } },
      edit: own.teachers.edit,
    },
    phases: [{ until: 4, sds: true, adversarial: false }],
    first_frame: { teacher: 'edit', steps: 2 },
  });
  const pool = mkdtempSync(join(tmpdir(), 'pool-'));
  const first = async (kept: string) => {
    const rng = Rng.of(recipe.seed);
    const all = distill({ ...stacks, data, config: recipe, runtime, rng, pool: kept });
    const { value } = await all.next();
    await all.return(undefined);
    return value!.state.params;
  };
  const params = await first(pool);
  const files = readdirSync(join(pool, 'first_frame')).toSorted();
  expect(files).toEqual(['0.safetensors', '1.safetensors']);
  const path = join(pool, 'first_frame', files[0]);
  const latents = Weights.fromFile(path).entry('latents').load() as F32Array;
  expect(latents.shape).toEqual([1, 4, 8, 8]);
  expect(await first(pool)).toEqual(params);
  expect(await first(mkdtempSync(join(tmpdir(), 'pool-')))).toEqual(params);
  // Another first frame leads elsewhere: the adapter reads it.
  const other = { ...latents, data: latents.data.map((x) => x + 1) };
  writeSafetensors(path, { latents: other }, {});
  expect(await first(pool)).not.toEqual(params);
}, 180_000);

describe('a recipe that cannot work is refused', () => {
  test('no teachers', () => {
    expect(() => config({ teachers: {} })).toThrow(/at least one teacher/);
  });

  test('first frames by a teacher that is not there', () => {
    expect(() => config({ first_frame: { teacher: 'edits' } })).toThrow(
      /there is no teacher edits/,
    );
  });

  test('more steps than times', () => {
    expect(() => openStudent(student, 1001)).toThrow(/only 1000 times/);
  });

  test('a teacher that trains', async () => {
    const trains = { ...teachers, video: student };
    const own = config();
    const going = distill({
      student,
      teachers: trains,
      data,
      config: own,
      runtime,
      rng: Rng.of(0),
    });
    await expect(going.next()).rejects.toThrow(/a teacher is frozen/);
  });
});
