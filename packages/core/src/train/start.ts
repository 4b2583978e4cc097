/** A training recipe as a run in a folder. */

import { resolve } from 'node:path';

import { type NDArray, Rng, type Runtime } from '@attune/engine';
import { stringify } from 'yaml';

import { materialize } from '../adapters/compose.ts';
import { nominalDims } from '../models/net.ts';
import { pattern } from '../nn/address.ts';
import type { PluginLoader } from '../plugins/loader.ts';
import { openStack } from '../stack/open.ts';
import { checkFile } from '../stack/schema.ts';
import type { Checkpoint } from './checkpoint.ts';
import { drive, type Outcome, type RunRequest } from './drive.ts';
import { exportTrained } from './export.ts';
import type { TrainRecipe } from './recipe.ts';
import { type StepReport, train, type TrainState } from './run.ts';
import type { Params } from './step.ts';

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
  const anew = recipe.fresh.map(pattern);
  const kept = opened.weights.renamed((name) =>
    anew.some((one) => one.test(name)) ? undefined : name,
  );
  const { train: config } = recipe;
  const model = materialize({ ...opened, weights: kept }, { dims: nominalDims, seed: config.seed });
  const { use: objectiveId, ...objectiveOptions } = recipe.objective;
  const objectiveKind = await loader.get('objectives', objectiveId);
  const objective = objectiveKind.create(
    checkFile(objectiveKind.options, objectiveOptions, 'objective'),
    model,
  );
  const { use: dataId, ...dataOptions } = recipe.data;
  const dataKind = await loader.get('data', dataId);
  const data = await dataKind.create(checkFile(dataKind.options, dataOptions, 'data'), model);
  const rng = Rng.of(config.seed);
  return drive<TrainState, StepReport>({
    ...request,
    recipe: stringify(recipe),
    checkpoint: recipe.checkpoint,
    total: config.steps,
    seed: config.seed,
    iterate: (from) => train({ model, objective, data, config, runtime, rng }, from),
    pack: (state) => pack(state, (name) => model.weights.entry(name).shape),
    unpack,
    line: ({ step, loss, metrics, gradNorm, lr }) =>
      step === 1 || step % recipe.log_every === 0
        ? { ...metrics, step, loss, grad_norm: gradNorm, lr }
        : undefined,
    finish: (state, target, metadata) =>
      exportTrained(model, state.ema ?? state.params, target, {
        source: resolve(folder, recipe.stack.backbone),
        metadata,
        dtype: recipe.save,
      }),
  });
}

function pack(state: TrainState, shapeOf: (name: string) => readonly number[]): Checkpoint {
  const arrays = (params: Params): Record<string, NDArray> =>
    Object.fromEntries(
      Object.entries(params).map(([name, data]) => [
        name,
        { dtype: 'f32', shape: shapeOf(name), data },
      ]),
    );
  return {
    step: state.step,
    arrays: {
      params: arrays(state.params),
      mean: arrays(state.optimizer.mean),
      square: arrays(state.optimizer.square),
      ...(state.ema ? { ema: arrays(state.ema) } : {}),
    },
    state: { updates: state.optimizer.step },
  };
}

function unpack({ step, arrays, state }: Checkpoint): TrainState {
  const params = (file: string): Params =>
    Object.fromEntries(
      Object.entries(arrays[file]).map(([name, { data }]) => [name, data as Float32Array]),
    );
  return {
    step,
    params: params('params'),
    optimizer: {
      step: (state as { updates: number }).updates,
      mean: params('mean'),
      square: params('square'),
    },
    ...(arrays.ema ? { ema: params('ema') } : {}),
  };
}
