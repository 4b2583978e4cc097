/** The training loop: an async iterator whose caller owns logging, checkpoints and stopping. */

import { AttuneError, type Rng, type Runtime } from '@attune/engine';
import { z } from 'zod';

import type { Model } from '../models/model.ts';
import type { DataSource } from './data.ts';
import { Divergence } from './finite.ts';
import { sideBySide } from './lanes.ts';
import type { Learner, Params } from './learner.ts';
import type { Objective } from './objective.ts';
import { adamw, clipByGlobalNormInPlace } from './optim.ts';
import { emaUpdate, learningRate } from './rates.ts';
import { type Gradients, TrainStep } from './step.ts';

/** Samples at once; more than any machine holds. */
export const BatchSize = z
  .int()
  .positive()
  .max(2 ** 16);

/** An id of a plugin's contribution with its options. */
export const Use = z.looseObject({ use: z.string() });

/** The `train` part of a recipe. The optimiser is AdamW (Loshchilov & Hutter 2019); `warmup` counts steps. */
export const TrainConfig = z.strictObject({
  steps: z.int().positive(),
  /** Samples per optimiser step. */
  batch: BatchSize.default(32),
  /** Samples per micro-batch, the bit-exact unit; default the whole batch. */
  micro: BatchSize.optional(),
  lr: z.number().positive().default(1e-4),
  betas: z.tuple([z.number(), z.number()]).default([0.9, 0.999]),
  eps: z.number().positive().default(1e-8),
  weight_decay: z.number().nonnegative().default(0.01),
  schedule: z.enum(['constant', 'cosine', 'linear']).default('constant'),
  warmup: z.int().nonnegative().default(0),
  /** Largest global norm of a gradient; 0 leaves it as it is. */
  clip: z.number().nonnegative().default(1),
  /** Decay of the averaged weights; 0 keeps none. */
  ema: z.number().min(0).max(1).default(0),
  seed: z.int().nonnegative().default(0),
  /** Held-out loss of the averaged weights (of the weights, without `ema`), beside the training's own. */
  validation: z
    .strictObject({
      /** Steps between two measurements; the last step has one, too. */
      every: z.int().positive(),
      /** Samples, the same ones with the same noise at every measurement. */
      samples: z.int().positive().default(64),
      /** Where they come from; default the training's source, which then has to be endless. */
      data: Use.optional(),
    })
    .optional(),
});
/** Those settings with their defaults filled in. */
export type TrainConfig = z.infer<typeof TrainConfig>;

/** Everything that changes during a run; passing it back resumes exactly. */
export interface TrainState extends Learner {
  /** Optimiser steps done. */
  readonly step: number;
}

/** Figures of one optimiser step; `loss` and `metrics` are means over its samples. */
export interface StepReport {
  readonly step: number;
  readonly loss: number;
  /** Where one was due. */
  readonly validationLoss?: number | undefined;
  readonly metrics: Readonly<Record<string, number>>;
  readonly gradNorm: number;
  readonly lr: number;
  /** True when a non-finite gradient was skipped. */
  readonly skipped: boolean;
}

export interface Training {
  readonly model: Model;
  readonly objective: Objective;
  readonly data: DataSource;
  /** For `config.validation`; default `data`. */
  readonly heldOut?: DataSource;
  readonly config: TrainConfig;
  readonly runtime: Runtime;
  readonly rng: Rng;
}

/** Runs from `from` (or from the model's own weights) to `config.steps`. */
export async function* train(
  { model, objective, data, heldOut = data, config, runtime, rng }: Training,
  from?: TrainState,
): AsyncGenerator<{ state: TrainState; report: StepReport }> {
  const micro = config.micro ?? config.batch;
  if (config.batch % micro)
    throw new AttuneError(
      'BAD_CONFIG',
      `A batch of ${config.batch} does not split into micro-batches of ${micro}.`,
    );
  if (config.validation && heldOut === data && data.length !== undefined)
    throw new AttuneError(
      'BAD_CONFIG',
      `validation: the data has only ${data.length} samples and training reads them all; say where other ones come from (validation.data).`,
    );
  // Micro-batches share nothing but the parameters, so they run beside each other, a thread each.
  const count = config.batch / micro;
  const { runtimes, release } = sideBySide(runtime, count);
  const units = runtimes.map(
    (own) => new TrainStep(model, objective, { ...data.dims, B: micro }, own),
  );
  const { betas, eps, weight_decay: weightDecay } = config;
  const optimizer = adamw({ betas, eps, weightDecay });
  const stream = rng.fork('data');
  const draws = rng.fork('draws');
  const unseen = rng.fork('validation');
  /** The mean loss of `most` samples that no step learns from, in whole micro-batches. */
  const validate = async (params: Params, most: number): Promise<number> => {
    let [loss, seen] = [0, 0];
    while (seen < most) {
      const some = units.slice(0, Math.ceil((most - seen) / micro)).map(async (unit, lane) => {
        const ids = Array.from({ length: micro }, (_, i) => seen + lane * micro + i);
        const batch = await heldOut.batch(ids, unseen.fork('data'));
        return (await unit.gradients(params, batch, ids, unseen.fork('draws'))).loss;
      });
      for (const one of await Promise.all(some)) loss += one * micro;
      seen += some.length * micro;
    }
    return loss / seen;
  };
  let state = from ?? initialState(units[0].initial(), config);
  const divergence = new Divergence(model.weights);
  try {
    while (state.step < config.steps) {
      const first = state.step * config.batch;
      const found: Gradients[] = [];
      for (let start = first; start < first + config.batch; start += micro * units.length) {
        const gradients = units.map(async (unit, lane) => {
          const ids = Array.from({ length: micro }, (_, i) => start + lane * micro + i);
          return unit.gradients(state.params, await data.batch(ids, stream), ids, draws);
        });
        found.push(...(await Promise.all(gradients)));
      }
      const sum = summed(found);
      const norm = clipByGlobalNormInPlace(sum, { max: config.clip, divisor: found.length });
      const lr = learningRate(config, state.step);
      const skipped = !Number.isFinite(norm);
      if (!skipped) {
        const [params, moments] = optimizer.update(sum, state.optimizer, state.params, lr);
        const ema =
          state.ema &&
          emaUpdate(state.ema, params, { decay: config.ema, warmup: 'ramp' }, state.step);
        state = { ...state, params, optimizer: moments, ...(ema ? { ema } : {}) };
      }
      state = { ...state, step: state.step + 1 };
      const last = state.step === config.steps;
      divergence.heed({ step: state.step, last, skipped, params: state.params, lr });
      const { validation } = config;
      const { step } = state;
      const due = validation && (step % validation.every === 0 || step === config.steps);
      const validationLoss = due
        ? await validate(state.ema ?? state.params, validation.samples)
        : undefined;
      const report = { step, ...averages(found), validationLoss, gradNorm: norm, lr, skipped };
      yield { state, report };
    }
  } finally {
    for (const unit of units) await unit.release();
    await release();
  }
}

function initialState(params: Params, config: TrainConfig): TrainState {
  const optimizer = adamw().init(params);
  return { step: 0, params, optimizer, ...(config.ema ? { ema: params } : {}) };
}

/** Gradients summed in the order of the units, into those of the first. */
function summed([first, ...rest]: readonly Gradients[]): Params {
  for (const { grads } of rest)
    for (const [name, values] of Object.entries(first.grads)) {
      const more = grads[name];
      for (let i = 0; i < values.length; i++) values[i] += more[i];
    }
  return first.grads;
}

function averages(units: readonly Gradients[]): Pick<StepReport, 'loss' | 'metrics'> {
  const mean = (of: (unit: Gradients) => number) =>
    units.reduce((sum, unit) => sum + of(unit), 0) / units.length;
  return {
    loss: mean(({ loss }) => loss),
    metrics: Object.fromEntries(
      Object.keys(units[0].metrics).map((name) => [name, mean(({ metrics }) => metrics[name])]),
    ),
  };
}
