/**
 * Factorized diffusion distillation (arXiv 2403.09334, section 3.2) for any number of teachers, as an
 * async iterator: the caller owns logging, checkpoints and stopping; passing the state back resumes.
 */

import {
  adamw,
  clipByGlobalNormInPlace,
  type DataSource,
  emaUpdate,
  ModelRunner,
  type Model,
  type OptimState,
} from '@attune/core';
import { AttuneError, type F32Array, type Rng, type Runtime } from '@attune/engine';

import { Adversary, type CriticFigures, type CriticState } from './adversarial.ts';
import type { DistillConfig } from './config.ts';
import { ModelTeacher } from './model-teacher.ts';
import { type Params, Student } from './student.ts';
import { sdsCotangent } from './teacher.ts';
import type { DataBatch } from './view.ts';

export interface DistillState {
  /** Optimiser steps done. */
  readonly step: number;
  readonly params: Params;
  readonly optimizer: OptimState;
  readonly ema?: Params;
  /** Heads and their optimisers, by teacher. */
  readonly critics: Readonly<Record<string, CriticState>>;
}

export interface DistillReport {
  readonly step: number;
  /** RMS of each teacher's SDS cotangent and of its critic's. */
  readonly pulls: Readonly<Record<string, { readonly sds: number; readonly adversarial: number }>>;
  readonly critics: Readonly<Record<string, CriticFigures>>;
  /** Of the generated latents x′₀. */
  readonly mean: number;
  readonly deviation: number;
  readonly gradNorm: number;
  readonly skipped: boolean;
}

export interface Distillation {
  readonly student: Model;
  /** Stacks by teacher id, as the recipe names them. */
  readonly teachers: Readonly<Record<string, Model>>;
  readonly data: DataSource;
  readonly config: DistillConfig;
  readonly runtime: Runtime;
  readonly rng: Rng;
}

export async function* distill(
  { student: model, teachers: models, data, config, runtime, rng }: Distillation,
  from?: DistillState,
): AsyncGenerator<{ state: DistillState; report: DistillReport }> {
  const runner = new ModelRunner(model, runtime);
  const { channels, factor } = runner.latents;
  const { H, W, F, L } = data.dims;
  const dims = { B: config.micro, F, H: H / factor, W: W / factor, L };
  const noiseShape = [config.micro * F, channels, dims.H, dims.W];
  const student = new Student(runner, config.student.view, dims, config.rollout);
  const teachers = Object.entries(config.teachers).map(([id, own]) => {
    const stack = models[id];
    if (!stack) throw new AttuneError('NO_TEACHER', `The teacher ${id} has no model.`, { id });
    return new ModelTeacher(id, new ModelRunner(stack, runtime), own, dims);
  });
  const adversaries = new Map<string, Adversary>();
  for (const teacher of teachers)
    if (teacher.config.critic)
      adversaries.set(
        teacher.id,
        new Adversary(teacher, noiseShape, runtime, rng.fork('critic', teacher.id)),
      );
  const optimizer = adamw({
    betas: config.betas,
    eps: 1e-8,
    weightDecay: config.weight_decay,
  });
  const last = config.phases[config.phases.length - 1].until;
  let state = from ?? start(student, config, (params) => optimizer.init(params));

  try {
    while (state.step < last) {
      const phase = config.phases.find(({ until }) => state.step < until)!;
      const micros = config.batch / config.micro;
      const sums: { grads?: Record<string, Float32Array> } = {};
      const tally = new Tally();
      let critics: Record<string, CriticState> = { ...state.critics };
      for (let unit = 0; unit < micros; unit++) {
        const first = state.step * config.batch + unit * config.micro;
        const ids = Array.from({ length: config.micro }, (_, i) => first + i);
        const draw = rng.fork('unit', first);
        const batch = await read(data, ids, rng.fork('data'));
        const noise = draw.fork('noise').normals(noiseShape);
        const { rolled, back } = await student.generate(state.params, batch, noise, draw);
        const x0 = rolled.latents;
        tally.latents(x0);
        const total = new Float32Array(x0.data.length);
        for (const teacher of teachers) {
          const ready = await teacher.ready(batch);
          const own = draw.fork('teacher', teacher.id);
          const { sds, weight } = teacher.config;
          const sdsPull =
            phase.sds && sds
              ? await sdsCotangent(
                  ready,
                  x0,
                  { ...sds, scale: weight * sds.lambda },
                  own.fork('sds'),
                )
              : undefined;
          if (sdsPull) plus(total, sdsPull.data);
          const adversary = phase.adversarial ? adversaries.get(teacher.id) : undefined;
          if (!adversary) {
            tally.pull(teacher.id, sdsPull, undefined);
            continue;
          }
          await adversary.open(batch);
          critics[teacher.id] ??= adversary.initial();
          const pull = await adversary.pull(ready, x0, critics[teacher.id], own.fork('adv'), {
            weight,
            beside: sdsPull,
          });
          plus(total, pull.data);
          tally.pull(teacher.id, sdsPull, pull);
          // The critic learns from this unit after the generator has used it: student first, then D.
          const turn = await adversary.learn(
            ready,
            batch,
            x0,
            critics[teacher.id],
            own.fork('learn'),
            ids,
          );
          critics = { ...critics, [teacher.id]: turn.state };
          tally.critic(teacher.id, turn.figures);
        }
        const { grads } = await back({ ...x0, data: total });
        collect(sums, student.names, grads);
      }
      const sum = sums.grads!;
      const norm = clipByGlobalNormInPlace(sum, { max: config.clip, divisor: micros });
      const skipped = !Number.isFinite(norm);
      if (!skipped) {
        const [params, moments] = optimizer.update(sum, state.optimizer, state.params, config.lr);
        const ema =
          state.ema &&
          emaUpdate(state.ema, params, { decay: config.ema, warmup: 'ramp' }, state.step);
        state = { ...state, params, optimizer: moments, ...(ema ? { ema } : {}) };
      }
      state = { ...state, step: state.step + 1, critics };
      yield { state, report: { step: state.step, ...tally.report(), gradNorm: norm, skipped } };
    }
  } finally {
    await student.release();
    await runner.release();
    for (const teacher of teachers) await teacher.release();
    for (const adversary of adversaries.values()) await adversary.release();
  }
}

function start(
  student: Student,
  config: DistillConfig,
  init: (params: Params) => OptimState,
): DistillState {
  const params = student.initial();
  return {
    step: 0,
    params,
    optimizer: init(params),
    critics: {},
    ...(config.ema ? { ema: params } : {}),
  };
}

async function read(data: DataSource, ids: readonly number[], rng: Rng): Promise<DataBatch> {
  const known = data.length === undefined ? ids : ids.map((id) => id % data.length!);
  return { arrays: await data.batch(known, rng), text: data.prompts?.(known, rng) ?? {} };
}

function plus(into: Float32Array, more: Float32Array): void {
  for (let i = 0; i < into.length; i++) into[i] += more[i];
}

/** Adds the gradients of one unit; of the first, copies are kept. */
function collect(
  sums: { grads?: Record<string, Float32Array> },
  names: readonly string[],
  grads: Readonly<Record<string, F32Array>>,
): void {
  if (!sums.grads) {
    sums.grads = Object.fromEntries(names.map((name) => [name, grads[name].data.slice()]));
    return;
  }
  for (const name of names) plus(sums.grads[name], grads[name].data);
}

/** Figures of one step, averaged over its units. */
class Tally {
  readonly #pulls: Record<string, { sds: number; adversarial: number; count: number }> = {};
  readonly #critics: Record<string, CriticFigures> = {};
  #sum = 0;
  #square = 0;
  #count = 0;

  latents({ data }: F32Array): void {
    for (const value of data) {
      this.#sum += value;
      this.#square += value * value;
    }
    this.#count += data.length;
  }

  pull(id: string, sds: F32Array | undefined, adversarial: F32Array | undefined): void {
    const one = (this.#pulls[id] ??= { sds: 0, adversarial: 0, count: 0 });
    one.sds += sds ? rms(sds.data) : 0;
    one.adversarial += adversarial ? rms(adversarial.data) : 0;
    one.count++;
  }

  critic(id: string, figures: CriticFigures): void {
    this.#critics[id] = figures;
  }

  report(): Pick<DistillReport, 'pulls' | 'critics' | 'mean' | 'deviation'> {
    const mean = this.#sum / this.#count;
    return {
      pulls: Object.fromEntries(
        Object.entries(this.#pulls).map(([id, { sds, adversarial, count }]) => [
          id,
          { sds: sds / count, adversarial: adversarial / count },
        ]),
      ),
      critics: this.#critics,
      mean,
      deviation: Math.sqrt(Math.max(0, this.#square / this.#count - mean * mean)),
    };
  }
}

function rms(data: Float32Array): number {
  let sum = 0;
  for (const value of data) sum += value * value;
  return Math.sqrt(sum / data.length);
}
