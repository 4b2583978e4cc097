/** A distillation recipe as a run in a folder: stacks opened, checkpoints, the aligned adapter at the end. */

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';

import {
  checkFile,
  exportTrained,
  latestCheckpoint,
  loadCheckpoint,
  materialize,
  type Model,
  nominalDims,
  openStack,
  type PluginLoader,
  pruneCheckpoints,
  RunFolder,
  saveCheckpoint,
  type StackFile,
} from '@attune/core';
import { type NDArray, Rng, type Runtime } from '@attune/engine';
import { stringify } from 'yaml';
import { z } from 'zod';

import { DistillConfig } from './config.ts';
import { distill, type DistillReport, type DistillState } from './distill.ts';

export const DistillRecipe = z.strictObject({
  distill: DistillConfig,
  /** What the student generates for: a plugin's data source with prompts. */
  data: z.looseObject({ use: z.string() }),
  checkpoint: z
    .strictObject({
      every: z.int().positive().default(50),
      keep: z.int().positive().default(2),
    })
    .prefault({}),
});
export type DistillRecipe = z.infer<typeof DistillRecipe>;

export interface DistillRunOptions {
  readonly loader: PluginLoader;
  readonly runtime: Runtime;
  /** Paths in the recipe are relative to this folder. */
  readonly folder: string;
  readonly run: string;
  readonly resume?: boolean;
  /** Stops after the step in which it fires; a checkpoint is written first. */
  readonly signal?: AbortSignal;
  readonly onStep?: (report: DistillReport) => void;
}

/** Runs a recipe to its end or until the signal. */
export async function runDistillation(
  recipe: DistillRecipe,
  { loader, runtime, folder, run, resume = false, signal, onStep }: DistillRunOptions,
): Promise<{ step: number; complete: boolean; path: string }> {
  const config = recipe.distill;
  const open = async (stack: StackFile): Promise<Model> =>
    materialize(await openStack(stack, folder, loader), { dims: nominalDims, seed: config.seed });
  const student = await open(config.student.stack);
  const teachers: Record<string, Model> = {};
  for (const [id, teacher] of Object.entries(config.teachers))
    teachers[id] = await open(teacher.stack);
  const { use, ...options } = recipe.data;
  const kind = await loader.get('data', use);
  const data = await kind.create(checkFile(kind.options, options, 'data'), student);
  const text = stringify(recipe);
  const place = RunFolder.open(run, text, { resume });
  try {
    const newest = resume ? latestCheckpoint(place.checkpoints) : undefined;
    const from = newest ? unpack(loadCheckpoint(newest)) : undefined;
    place.rewindLog(from?.step ?? 0);
    const rng = Rng.of(config.seed);
    const last = config.phases[config.phases.length - 1].until;
    let state = from;
    let saved = from?.step;
    const save = (now: DistillState) => {
      saveCheckpoint(place.checkpoints, pack(now));
      pruneCheckpoints(place.checkpoints, recipe.checkpoint.keep);
      saved = now.step;
    };
    for await (const turn of distill({ student, teachers, data, config, runtime, rng }, from)) {
      ({ state } = turn);
      place.log({ ...turn.report });
      onStep?.(turn.report);
      if (state.step % recipe.checkpoint.every === 0 || signal?.aborted) save(state);
      if (signal?.aborted) break;
    }
    if (state && saved !== state.step) save(state);
    const step = state?.step ?? 0;
    const complete = step >= last;
    if (state && complete) {
      const trained = state.ema ?? state.params;
      place.replace('best', (staging) => {
        exportTrained(student, trained, staging, {
          source: folder,
          metadata: {
            'attune.recipe': sha256(text),
            'attune.log': sha256(readFileSync(place.logFile, 'utf8')),
            'attune.seed': String(config.seed),
            'attune.step': String(step),
          },
        });
      });
    }
    return { step, complete, path: place.path };
  } finally {
    place.close();
  }
}

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

type Named = Readonly<Record<string, Float32Array>>;

const arrays = (named: Named): Record<string, NDArray> =>
  Object.fromEntries(
    Object.entries(named).map(([name, values]) => [
      name,
      { dtype: 'f32' as const, shape: [values.length], data: values },
    ]),
  );

/** A state as a checkpoint: one file per set of arrays, counters in the JSON. */
function pack(state: DistillState) {
  const critics = Object.entries(state.critics);
  return {
    step: state.step,
    arrays: {
      params: arrays(state.params),
      mean: arrays(state.optimizer.mean),
      square: arrays(state.optimizer.square),
      ...(state.ema ? { ema: arrays(state.ema) } : {}),
      ...Object.fromEntries(
        critics.flatMap(([id, { params, optimizer }]) => [
          [`critic-${id}`, arrays(params)],
          [`critic-${id}-mean`, arrays(optimizer.mean)],
          [`critic-${id}-square`, arrays(optimizer.square)],
        ]),
      ),
    },
    state: {
      updates: state.optimizer.step,
      critics: Object.fromEntries(critics.map(([id, { optimizer }]) => [id, optimizer.step])),
    },
  };
}

function unpack({ step, arrays: files, state }: ReturnType<typeof loadCheckpoint>): DistillState {
  const { updates, critics } = state as { updates: number; critics: Record<string, number> };
  const named = (file: string): Record<string, Float32Array> =>
    Object.fromEntries(
      Object.entries(files[file]).map(([name, { data }]) => [name, data as Float32Array]),
    );
  return {
    step,
    params: named('params'),
    optimizer: { step: updates, mean: named('mean'), square: named('square') },
    ...(files.ema ? { ema: named('ema') } : {}),
    critics: Object.fromEntries(
      Object.entries(critics).map(([id, count]) => [
        id,
        {
          params: named(`critic-${id}`),
          optimizer: {
            step: count,
            mean: named(`critic-${id}-mean`),
            square: named(`critic-${id}-square`),
          },
        },
      ]),
    ),
  };
}
