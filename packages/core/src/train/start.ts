/** A training recipe as a run in a folder: resume, log, checkpoints, weights at the end. */

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { resolve } from 'node:path';

import { AttuneError, type NDArray, Rng, type Runtime } from '@attune/engine';
import { stringify } from 'yaml';

import { materialize } from '../adapters/compose.ts';
import { nominalDims } from '../models/net.ts';
import { pattern } from '../nn/address.ts';
import type { PluginLoader } from '../plugins/loader.ts';
import { openStack } from '../stack/open.ts';
import { checkFile } from '../stack/schema.ts';
import {
  latestCheckpoint,
  loadCheckpoint,
  pruneCheckpoints,
  saveCheckpoint,
} from './checkpoint.ts';
import { exportTrained } from './export.ts';
import { RunFolder } from './folder.ts';
import type { OptimState } from './optim.ts';
import type { TrainRecipe } from './recipe.ts';
import { type StepReport, train, type TrainState } from './run.ts';
import type { Params } from './step.ts';

export interface RunOptions {
  readonly loader: PluginLoader;
  readonly runtime: Runtime;
  /** Paths in the recipe are relative to this folder. */
  readonly folder: string;
  /** The run's folder. */
  readonly run: string;
  readonly resume?: boolean;
  /** Stops after the step in which it fires; a checkpoint is written first. */
  readonly signal?: AbortSignal;
  readonly onStep?: (report: StepReport) => void;
}

/** Runs a recipe to its end or until the signal. Returns the last state and whether it is complete. */
export async function runTraining(
  recipe: TrainRecipe,
  { loader, runtime, folder, run, resume = false, signal, onStep }: RunOptions,
): Promise<{ state: TrainState; complete: boolean; path: string }> {
  const opened = await openStack(recipe.stack, folder, loader, { fresh: true });
  const anew = recipe.fresh.map(pattern);
  const kept = opened.weights.renamed((name) =>
    anew.some((one) => one.test(name)) ? undefined : name,
  );
  const model = materialize(
    { ...opened, weights: kept },
    { dims: nominalDims, seed: recipe.train.seed },
  );
  const { use: objectiveId, ...objectiveOptions } = recipe.objective;
  const objectiveKind = await loader.get('objectives', objectiveId);
  const objective = objectiveKind.create(
    checkFile(objectiveKind.options, objectiveOptions, 'objective'),
    model,
  );
  const { use: dataId, ...dataOptions } = recipe.data;
  const dataKind = await loader.get('data', dataId);
  const data = await dataKind.create(checkFile(dataKind.options, dataOptions, 'data'), model);

  const place = RunFolder.open(run, stringify(recipe), { resume });
  try {
    const newest = resume ? latestCheckpoint(place.checkpoints) : undefined;
    const from = newest ? restore(loadCheckpoint(newest)) : undefined;
    place.rewindLog(from?.step ?? 0);
    const save = (state: TrainState) => {
      saveCheckpoint(place.checkpoints, pack(state, shapes));
      pruneCheckpoints(place.checkpoints, recipe.checkpoint.keep);
    };
    const shapes = (name: string) => model.weights.entry(name).shape;
    const rng = Rng.of(recipe.train.seed);
    const config = recipe.train;
    let state = from;
    let saved = from?.step;
    for await (const turn of train({ model, objective, data, config, runtime, rng }, from)) {
      const { report } = turn;
      ({ state } = turn);
      if (report.step % recipe.log_every === 0 || report.step === 1)
        place.log({
          ...report.metrics,
          step: report.step,
          loss: report.loss,
          grad_norm: report.gradNorm,
          lr: report.lr,
        });
      onStep?.(report);
      if (report.step % recipe.checkpoint.every === 0 || signal?.aborted) {
        save(state);
        saved = state.step;
      }
      if (signal?.aborted) break;
    }
    const end = state ?? from;
    if (!end) throw new AttuneError('INTERNAL', 'internal: a run without a step.');
    if (saved !== end.step) save(end);
    const complete = end.step >= config.steps;
    if (complete)
      place.replace('best', (staging) =>
        exportTrained(model, end.ema ?? end.params, staging, {
          source: resolve(folder, recipe.stack.backbone),
          metadata: {
            'attune.recipe': sha256(stringify(recipe)),
            'attune.log': sha256(readFileSync(place.logFile, 'utf8')),
            'attune.seed': String(config.seed),
            'attune.step': String(end.step),
          },
        }),
      );
    return { state: end, complete, path: place.path };
  } finally {
    place.close();
  }
}

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

/** A state as a checkpoint. */
function pack(state: TrainState, shapeOf: (name: string) => readonly number[]) {
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

function restore({ step, arrays, state }: ReturnType<typeof loadCheckpoint>): TrainState {
  const params = (file: string): Params =>
    Object.fromEntries(
      Object.entries(arrays[file]).map(([name, { data }]) => [name, data as Float32Array]),
    );
  const optimizer: OptimState = {
    step: (state as { updates: number }).updates,
    mean: params('mean'),
    square: params('square'),
  };
  return {
    step,
    params: params('params'),
    optimizer,
    ...(arrays.ema ? { ema: params('ema') } : {}),
  };
}
