/** The training loop: an async iterator whose caller owns logging, checkpoints and stopping. */

import type { NDArray, Rng, Runtime } from '@attune/engine';
import { z } from 'zod';

import type { Model } from '../models/model.ts';
import type { Checkpoint } from './checkpoint.ts';
import type { DataSource } from './data.ts';
import type { Objective } from './objective.ts';
import { adamw, clipByGlobalNorm, emaUpdate, learningRate, type OptimState } from './optim.ts';
import { type Params, TrainStep } from './step.ts';

export const TrainConfig = z.strictObject({
  steps: z.int().positive(),
  /** Samples per optimiser step. */
  batch: z.int().positive().default(32),
  /** Samples per micro-batch, the bit-exact unit; default the whole batch. */
  micro: z.int().positive().optional(),
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
});
export type TrainConfig = z.infer<typeof TrainConfig>;

/** Everything that changes during a run; passing it back resumes exactly. */
export interface TrainState {
  /** Optimiser steps done. */
  readonly step: number;
  readonly params: Params;
  readonly optimizer: OptimState;
  /** Averaged parameters, where asked for. */
  readonly ema?: Params;
}

export interface StepReport {
  readonly step: number;
  readonly loss: number;
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
  readonly config: TrainConfig;
  readonly runtime: Runtime;
  readonly rng: Rng;
}

/** Runs from `from` (or from the model's own weights) to `config.steps`. */
export async function* train(
  { model, objective, data, config, runtime, rng }: Training,
  from?: TrainState,
): AsyncGenerator<{ state: TrainState; report: StepReport }> {
  const micro = config.micro ?? config.batch;
  const step = new TrainStep(model, objective, { ...data.dims, B: micro }, runtime);
  const optimizer = adamw({
    betas: config.betas,
    eps: config.eps,
    weightDecay: config.weight_decay,
  });
  let state: TrainState = from ?? start(step.initial(), config, optimizer.init);
  const stream = rng.fork('data');
  try {
    while (state.step < config.steps) {
      const sum = await accumulate(step, state, config, micro, (ids) => data.batch(ids, stream));
      const units = config.batch / micro;
      const norm = clipByGlobalNorm(sum.grads, units, config.clip);
      const lr = learningRate(config, state.step);
      const finite = Number.isFinite(norm);
      const params = finite
        ? optimizer.update(sum.grads, state.optimizer, state.params, lr)
        : state.params;
      const ema =
        state.ema && finite ? emaUpdate(state.ema, params, config.ema, state.step) : state.ema;
      state = { ...state, params, step: state.step + 1, ...(ema ? { ema } : {}) };
      yield {
        state,
        report: {
          step: state.step,
          loss: sum.loss / units,
          metrics: Object.fromEntries(
            Object.entries(sum.metrics).map(([name, value]) => [name, value / units]),
          ),
          gradNorm: norm,
          lr,
          skipped: !finite,
        },
      };
    }
  } finally {
    await step.release();
  }
}
void ({} as NDArray | Checkpoint);
