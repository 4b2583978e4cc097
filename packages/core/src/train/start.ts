/** A training recipe as a run in a folder. */

import { resolve } from 'node:path';

import { Rng, type Runtime } from '@attune/engine';
import { stringify } from 'yaml';

import { materialize } from '../adapters/compose.ts';
import { nominalDims } from '../models/net.ts';
import { pattern } from '../nn/address.ts';
import type { PluginLoader } from '../plugins/loader.ts';
import { openStack } from '../stack/open.ts';
import { drive, type Outcome, type RunRequest } from './drive.ts';
import { exportTrained } from './export.ts';
import { packLearner, unpackLearner } from './learner.ts';
import type { TrainRecipe } from './recipe.ts';
import { type StepReport, train, type TrainState } from './run.ts';

export interface RunOptions extends RunRequest<StepReport> {
  readonly loader: PluginLoader;
  readonly runtime: Runtime;
  /** Paths in the recipe are relative to this folder. */
  readonly folder: string;
}

/** Runs a recipe to its end or until the signal. */
export async function runTraining(
  recipe: TrainRecipe,
  { loader, runtime, folder, ...request }: RunOptions,
): Promise<Outcome<TrainState>> {
  const opened = await openStack(recipe.stack, folder, loader, { fresh: true });
  const fresh = recipe.fresh.map(pattern);
  const { train: config } = recipe;
  const model = materialize(opened, {
    dims: nominalDims,
    seed: config.seed,
    anew: (name) => fresh.some((one) => one.test(name)),
  });
  const aim = await loader.configured('objectives', recipe.objective, 'objective');
  const objective = aim.kind.create(aim.options, model);
  const source = await loader.configured('data', recipe.data, 'data');
  const data = await source.kind.create(source.options, model);
  const unseen = config.validation?.data;
  const other = unseen && (await loader.configured('data', unseen, 'train.validation.data'));
  const heldOut = other ? { heldOut: await other.kind.create(other.options, model) } : {};
  const rng = Rng.of(config.seed);
  return drive<TrainState, StepReport>({
    ...request,
    recipe: stringify(recipe),
    checkpoint: recipe.checkpoint,
    total: config.steps,
    seed: config.seed,
    iterate: (from) => train({ model, objective, data, ...heldOut, config, runtime, rng }, from),
    pack: (state) => ({
      step: state.step,
      arrays: packLearner(state, { shapeOf: (name) => model.weights.entry(name).shape }),
      state: { updates: state.optimizer.step },
    }),
    unpack: ({ step, arrays, state }) => ({
      step,
      ...unpackLearner(arrays, (state as { updates: number }).updates),
    }),
    line: ({ step, loss, validationLoss, metrics, gradNorm, lr }) =>
      step === 1 || step % recipe.log_every === 0 || validationLoss !== undefined
        ? { ...metrics, step, loss, validation_loss: validationLoss, grad_norm: gradNorm, lr }
        : undefined,
    finish: (state, target, metadata) =>
      exportTrained(model, state.ema ?? state.params, target, {
        source: resolve(folder, recipe.stack.backbone),
        metadata,
        dtype: recipe.save,
      }),
  });
}
