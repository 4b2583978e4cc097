/** Distillation of an edit + video stack on tiny random models: what must hold whatever the weights. */

import { mkdtempSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { lora } from '@attune/adapter-lora';
import { video, VideoConfig } from '@attune/adapter-video';
import { compose, ddimPlan, materialize, ModelRunner, nominalDims, sample } from '@attune/core';
import { type F32Array, Rng, Weights, writeSafetensors } from '@attune/engine';
import { relativeError } from '@attune/engine/testing';
import { distill } from '@attune/fdd';
import { describe, expect, test } from 'vitest';

import {
  base,
  batchOf,
  config,
  data,
  dims,
  latentShape,
  open,
  openStudent,
  plain,
  run,
  runtime,
  student,
  teachers,
} from './distill-scene.ts';

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
