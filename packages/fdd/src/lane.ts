/**
 * One lane of a distillation: everything that a micro-batch needs, on one runtime. Lanes share nothing
 * but the parameters and the pools, so several run beside each other.
 */

import {
  type DataSource,
  type Dims,
  type Learner,
  type Model,
  ModelRunner,
  type Params,
} from '@attune/core';
import { AttuneError, type F32Array, type Rng, type Runtime, type Shape } from '@attune/engine';

import { Adversary, type Evidence } from './adversarial.ts';
import type { DistillConfig, Phase, TeacherConfig } from './config.ts';
import { FakeScore, type FakeTurn } from './fake.ts';
import { FirstFrames } from './first-frame.ts';
import { ModelTeacher } from './model-teacher.ts';
import type { Pool } from './pool.ts';
import { Student } from './student.ts';
import { sdsCotangent } from './teacher.ts';
import { checkDrops, checkView, type DataBatch } from './view.ts';

export interface LaneOptions {
  readonly student: Model;
  readonly teachers: Readonly<Record<string, Model>>;
  readonly fakes: Readonly<Record<string, Model>>;
  readonly data: DataSource;
  readonly config: DistillConfig;
  readonly runtime: Runtime;
  readonly rng: Rng;
  /** What is kept from batch to batch, by teacher; `first_frame` keeps first frames. */
  readonly pools: ReadonlyMap<string, Pool>;
}

/** What learns beside the student, by teacher. */
export interface Opponents {
  readonly critics: Readonly<Record<string, Learner>>;
  readonly fakes: Readonly<Record<string, Learner>>;
}

/** What one micro-batch gave. */
export interface UnitResult {
  /** x′₀ [micro·F, C, H, W]. */
  readonly latents: F32Array;
  readonly pulls: Readonly<
    Record<string, { readonly sds?: F32Array; readonly adversarial?: F32Array }>
  >;
  /** Of the student; absent in a phase without its step. */
  readonly grads?: Readonly<Record<string, F32Array>>;
  /** Of each teacher's fake score. */
  readonly fakes: Readonly<Record<string, FakeTurn>>;
  /** What each teacher's critic learns from, after the student's step. */
  readonly evidence: Readonly<Record<string, Evidence>>;
}

export class Lane {
  readonly student: Student;
  readonly adversaries = new Map<string, Adversary>();
  readonly fakes = new Map<string, FakeScore>();
  readonly #runner: ModelRunner;
  readonly #teachers: readonly ModelTeacher[];
  readonly #data: DataSource;
  readonly #firstFrames: FirstFrames | undefined;
  readonly #rng: Rng;
  readonly #noiseShape: Shape;

  constructor({ student, teachers, fakes, data, config, runtime, rng, pools }: LaneOptions) {
    this.#runner = new ModelRunner(student, runtime);
    this.#data = data;
    this.#rng = rng;
    const { channels, factor } = this.#runner.latents;
    const { H, W, F, L } = data.dims;
    const dims: Dims = { B: config.micro, F, H: H / factor, W: W / factor, ...(L ? { L } : {}) };
    this.#noiseShape = [config.micro * F, channels, dims.H, dims.W];
    checkView(student, config.student.view, { at: 'student.view', stack: config.student.stack });
    this.student = new Student(this.#runner, config.student.view, dims, config.rollout);
    this.#teachers = Object.entries(config.teachers).map(([id, own]) => {
      const stack = teachers[id];
      if (!stack) throw new AttuneError('NO_TEACHER', `The teacher ${id} has no model.`, { id });
      const teacher = new ModelTeacher(id, new ModelRunner(stack, runtime), own, dims);
      checkTeacher(id, stack, own);
      return teacher;
    });
    for (const { id, config: own } of this.#teachers) {
      if (!own.fake) continue;
      const bytes = config.rollout.memory * 2 ** 30;
      const options = { view: own.view, dims, bytes };
      this.fakes.set(id, new FakeScore(id, new ModelRunner(fakes[id], runtime), own.fake, options));
    }
    const { first_frame: first } = config;
    this.#firstFrames =
      first &&
      new FirstFrames(
        new ModelRunner(teachers[first.teacher], runtime),
        config.teachers[first.teacher],
        first,
        {
          rows: { B: config.micro, F },
          shape: [channels, dims.H, dims.W],
          tokens: L ?? 1,
          pool: pools.get('first_frame')!,
          rng: rng.fork('data'),
        },
      );
    for (const teacher of this.#teachers)
      if (teacher.config.critic)
        this.adversaries.set(
          teacher.id,
          new Adversary(teacher, runtime, {
            noiseShape: this.#noiseShape,
            rng: rng.fork('critic', teacher.id),
            pool: pools.get(teacher.id)!,
          }),
        );
  }

  /** One generation for these sample ids, all teachers' pulls on it, and the way back to the parameters. */
  async run(
    ids: readonly number[],
    phase: Phase,
    params: Params,
    { critics, fakes }: Opponents,
  ): Promise<UnitResult> {
    const draw = this.#rng.fork('unit', ids[0]);
    const { length } = this.#data;
    const known = length === undefined ? ids : ids.map((id) => id % length);
    const batch = await this.#read(known);
    const noise = draw.fork('noise').normals(this.#noiseShape);
    const { rolled, back } = await this.student.generate(params, batch, noise, draw);
    const x0 = rolled.latents;
    const total = new Float32Array(x0.data.length);
    const pulls: Record<string, { sds?: F32Array; adversarial?: F32Array }> = {};
    const evidence: Record<string, Evidence> = {};
    const turns: Record<string, FakeTurn> = {};
    for (const teacher of this.#teachers) {
      const { id } = teacher;
      const ready = await teacher.ready(batch);
      const own = draw.fork('teacher', id);
      const { sds, weight } = teacher.config;
      const pull: { sds?: F32Array; adversarial?: F32Array } = (pulls[id] = {});
      if (phase.sds && sds) {
        const fake = await this.fakes.get(id)?.ready(fakes[id].params, batch);
        const origin = await teacher.origin(batch);
        const { share } = teacher.config.fake || teacher.config.delta || {};
        const options = {
          ...sds,
          scale: weight * sds.lambda,
          ...(fake ? { fake } : {}),
          ...(origin ? { origin } : {}),
          ...(share === undefined ? {} : { share }),
        };
        pull.sds = await sdsCotangent(ready, x0, options, own.fork('sds'));
        plus(total, pull.sds.data);
        if (fake) turns[id] = await fake.learn(x0, own.fork('fake'));
      }
      const adversary = phase.adversarial ? this.adversaries.get(id) : undefined;
      if (!adversary) continue;
      await adversary.open(batch);
      const critic = critics[id] ?? adversary.initial();
      pull.adversarial = await adversary.pull(ready, x0, critic, own.fork('adv'), {
        weight,
        beside: pull.sds,
      });
      plus(total, pull.adversarial.data);
      evidence[id] = await adversary.evidence(ready, batch, x0, own.fork('learn'), known);
    }
    const grads = phase.student ? (await back({ ...x0, data: total })).grads : undefined;
    return { latents: x0, pulls, ...(grads ? { grads } : {}), fakes: turns, evidence };
  }

  async #read(ids: readonly number[]): Promise<DataBatch> {
    const rng = this.#rng.fork('data');
    const arrays = await this.#data.batch(ids, rng);
    const batch = { arrays, text: this.#data.prompts?.(ids, rng) ?? {} };
    if (!this.#firstFrames) return batch;
    return { ...batch, arrays: { ...arrays, first_frame: await this.#firstFrames.of(batch, ids) } };
  }

  async release(): Promise<void> {
    await this.student.release();
    await this.#runner.release();
    await this.#firstFrames?.release();
    for (const teacher of this.#teachers) await teacher.release();
    for (const adversary of this.adversaries.values()) await adversary.release();
    for (const fake of this.fakes.values()) await fake.release();
  }
}

/** Throws where a teacher is to be shown, or to do without, what its stack does not take. */
function checkTeacher(
  id: string,
  model: Model,
  { stack, view, guidance, delta }: TeacherConfig,
): void {
  const at = `teachers.${id}`;
  checkView(model, view, { at: `${at}.view`, stack });
  checkDrops(view, [...guidance.drop, ...(guidance.before?.drop ?? [])], `${at}.guidance`);
  if (!delta) return;
  const shown = { ...view, ...delta.view };
  checkView(model, shown, { at: `${at}.delta.view`, stack });
  checkDrops(shown, delta.drop, `${at}.delta`);
}

function plus(into: Float32Array, more: Float32Array): void {
  for (let i = 0; i < into.length; i++) into[i] += more[i];
}
