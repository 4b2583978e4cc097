/**
 * Factorized diffusion distillation (arXiv 2403.09334, section 3.2) for any number of teachers, as an
 * async iterator: the caller owns logging, checkpoints and stopping; passing the state back resumes.
 */

import { join } from 'node:path';

import {
  adamw,
  clipByGlobalNormInPlace,
  type DataSource,
  Divergence,
  emaUpdate,
  type Learner,
  type Model,
  type OptimState,
  type Params,
  sideBySide,
} from '@attune/core';
import { AttuneError, type F32Array, type Rng, type Runtime } from '@attune/engine';

import type { CriticFigures } from './adversarial.ts';
import type { DistillConfig, TeacherConfig } from './config.ts';
import type { FakeTurn } from './fake.ts';
import { Lane, type Opponents, type UnitResult } from './lane.ts';
import { Pool } from './pool.ts';

/** The student, and what learns beside it. */
export interface DistillState extends Learner, Opponents {
  /** Optimiser steps done. */
  readonly step: number;
}

/** Figures of one optimiser step. */
export interface DistillReport {
  readonly step: number;
  /** RMS of each teacher's SDS cotangent and of its critic's. */
  readonly pulls: Readonly<Record<string, { readonly sds: number; readonly adversarial: number }>>;
  readonly critics: Readonly<Record<string, CriticFigures>>;
  /** Denoising loss of each teacher's fake score on generated latents. */
  readonly fakes: Readonly<Record<string, number>>;
  /** Of the generated latents x′₀. */
  readonly mean: number;
  readonly deviation: number;
  /** Of the student's gradient; 0 in a phase without its step. */
  readonly gradNorm: number;
  readonly skipped: boolean;
}

/** All that a distillation is made of. Stacks are materialized: every parameter has a value. */
export interface Distillation {
  readonly student: Model;
  /** Stacks by teacher id, as the recipe names them. */
  readonly teachers: Readonly<Record<string, Model>>;
  /** Of the teachers that have a fake score: their stacks with the adapters that learn it. */
  readonly fakes?: Readonly<Record<string, Model>>;
  readonly data: DataSource;
  readonly config: DistillConfig;
  readonly runtime: Runtime;
  readonly rng: Rng;
  /** Folder that keeps the teachers' samples, so that a resumed run need not make them again. */
  readonly pool?: string;
}

/**
 * Runs from `from` (or from the student's own weights) to the end of the last phase; one turn for each
 * optimiser step. The bytes of the states do not depend on how many lanes the runtime allows.
 */
export async function* distill(
  { student, teachers, fakes = {}, data, config, runtime, rng, pool }: Distillation,
  from?: DistillState,
): AsyncGenerator<{ state: DistillState; report: DistillReport }> {
  const units = config.batch / config.micro;
  const { runtimes, release } = sideBySide(runtime, units);
  const pools = new Map(
    [...Object.keys(config.teachers), 'first_frame'].map((id) => [
      id,
      new Pool(pool && join(pool, id)),
    ]),
  );
  const lanes = runtimes.map(
    (own) => new Lane({ student, teachers, fakes, data, config, runtime: own, rng, pools }),
  );
  const [firstLane] = lanes;
  const { adversaries } = firstLane;
  const optimizer = adamw({
    betas: config.betas,
    eps: 1e-8,
    weightDecay: config.weight_decay,
  });
  const last = config.phases[config.phases.length - 1].until;
  const divergence = new Divergence(student.weights);
  let state = from ?? start(firstLane, config, (params) => optimizer.init(params));

  try {
    while (state.step < last) {
      const phase = config.phases.find(({ until }) => state.step < until)!;
      const { params, critics: before } = state;
      const found: UnitResult[] = [];
      while (found.length < units) {
        const some = lanes.map((lane, i) => {
          const id = state.step * config.batch + (found.length + i) * config.micro;
          const ids = Array.from({ length: config.micro }, (_, k) => id + k);
          return lane.run(ids, phase, params, state);
        });
        found.push(...(await Promise.all(some)));
      }
      const mine = found.flatMap(({ grads }) => (grads ? [grads] : []));
      const sum = summed(mine);
      const norm = clipByGlobalNormInPlace(sum, { max: config.clip, divisor: units });
      const skipped = !Number.isFinite(norm);
      if (phase.student && !skipped) {
        const [next, moments] = optimizer.update(sum, state.optimizer, params, config.lr);
        const ema =
          state.ema &&
          emaUpdate(state.ema, next, { decay: config.ema, warmup: 'ramp' }, state.step);
        state = { ...state, params: next, optimizer: moments, ...(ema ? { ema } : {}) };
      }
      // The student's step first, against its opponents as they were; then their own.
      const scores = { ...state.fakes };
      for (const id of Object.keys(scores)) {
        const turns = found.flatMap(({ fakes: all }) => all[id] ?? []);
        if (turns.length > 0) scores[id] = learned(scores[id], turns, config.teachers[id]);
      }
      const critics = { ...before };
      const figures: Record<string, CriticFigures> = {};
      for (const { evidence } of found)
        for (const [id, seen] of Object.entries(evidence)) {
          const adversary = adversaries.get(id)!;
          const turn = await adversary.learn(critics[id] ?? adversary.initial(), seen);
          critics[id] = turn.state;
          figures[id] = turn.figures;
        }
      state = { ...state, step: state.step + 1, critics, fakes: scores };
      divergence.heed({
        step: state.step,
        last: state.step === last,
        skipped,
        params: state.params,
        lr: config.lr,
      });
      const report = {
        step: state.step,
        ...tally(found),
        critics: figures,
        gradNorm: norm,
        skipped,
      };
      yield { state, report };
    }
  } finally {
    for (const lane of lanes) await lane.release();
    await release();
  }
}

function start(
  { student, fakes }: Lane,
  config: DistillConfig,
  init: (params: Params) => OptimState,
): DistillState {
  const params = student.initial();
  return {
    step: 0,
    params,
    optimizer: init(params),
    critics: {},
    fakes: Object.fromEntries(
      [...fakes].map(([id, fake]) => {
        const first = fake.initial();
        return [id, { params: first, optimizer: adamw().init(first) }];
      }),
    ),
    ...(config.ema ? { ema: params } : {}),
  };
}

/** A fake score after one update by the mean gradient of all units; the same where that is not finite. */
function learned(
  { params, optimizer }: Learner,
  turns: readonly FakeTurn[],
  { fake }: TeacherConfig,
): Learner {
  if (!fake) throw new AttuneError('INTERNAL', 'internal: a fake score without a config.');
  const sum = summed(turns.map(({ grads }) => grads));
  const norm = clipByGlobalNormInPlace(sum, { max: 10, divisor: turns.length });
  if (!Number.isFinite(norm)) return { params, optimizer };
  const { betas, lr } = fake;
  const [next, moments] = adamw({ betas, weightDecay: 0 }).update(sum, optimizer, params, lr);
  return { params: next, optimizer: moments };
}

/** Gradients of units, summed in their order; nothing where there are none. */
function summed(
  units: readonly Readonly<Record<string, F32Array>>[],
): Record<string, Float32Array> {
  const [first, ...rest] = units;
  return Object.fromEntries(
    Object.entries(first ?? {}).map(([name, { data }]) => {
      const sum = data.slice();
      for (const grads of rest) {
        const more = grads[name].data;
        for (let i = 0; i < sum.length; i++) sum[i] += more[i];
      }
      return [name, sum];
    }),
  );
}

/** Figures of one step, averaged over its units. */
function tally(
  units: readonly UnitResult[],
): Pick<DistillReport, 'pulls' | 'fakes' | 'mean' | 'deviation'> {
  const all = units.flatMap(({ latents }) => [...latents.data]);
  const mean = all.reduce((sum, value) => sum + value, 0) / all.length;
  const square = all.reduce((sum, value) => sum + (value - mean) ** 2, 0) / all.length;
  const over = (id: string, kind: 'sds' | 'adversarial'): number =>
    units.reduce((sum, { pulls }) => sum + rms(pulls[id][kind]?.data ?? []), 0) / units.length;
  return {
    pulls: Object.fromEntries(
      Object.keys(units[0].pulls).map((id) => [
        id,
        { sds: over(id, 'sds'), adversarial: over(id, 'adversarial') },
      ]),
    ),
    fakes: Object.fromEntries(
      Object.keys(units[0].fakes).map((id) => [
        id,
        units.reduce((total, { fakes }) => total + fakes[id].loss, 0) / units.length,
      ]),
    ),
    mean,
    deviation: Math.sqrt(square),
  };
}

function rms(data: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < data.length; i++) sum += data[i] ** 2;
  return data.length ? Math.sqrt(sum / data.length) : 0;
}
