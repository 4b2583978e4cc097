/** A distillation recipe as a run in a folder: stacks opened, the aligned adapter at the end. */

import { join } from 'node:path';

import {
  type Checkpoint,
  CheckpointPlan,
  checkFile,
  drive,
  exportTrained,
  materialize,
  type Model,
  nominalDims,
  openStack,
  type Outcome,
  type PluginLoader,
  type RunRequest,
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
  checkpoint: CheckpointPlan.prefault({}),
});
export type DistillRecipe = z.infer<typeof DistillRecipe>;

export interface DistillRunOptions extends RunRequest<DistillReport> {
  readonly loader: PluginLoader;
  readonly runtime: Runtime;
  /** Paths in the recipe are relative to this folder. */
  readonly folder: string;
}

/** Runs a recipe to its end or until the signal. */
export async function runDistillation(
  recipe: DistillRecipe,
  { loader, runtime, folder, ...request }: DistillRunOptions,
): Promise<Outcome<DistillState>> {
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
  const rng = Rng.of(config.seed);
  return drive<DistillState, DistillReport>({
    ...request,
    recipe: stringify(recipe),
    checkpoint: recipe.checkpoint,
    total: config.phases[config.phases.length - 1].until,
    seed: config.seed,
    iterate: (from) =>
      distill(
        { student, teachers, data, config, runtime, rng, pool: join(request.run, 'pool') },
        from,
      ),
    pack,
    unpack,
    line: (report) => ({ ...report }),
    finish: (state, target, metadata) =>
      exportTrained(student, state.ema ?? state.params, target, { source: folder, metadata }),
  });
}

type Named = Readonly<Record<string, Float32Array>>;

const arrays = (named: Named): Record<string, NDArray> =>
  Object.fromEntries(
    Object.entries(named).map(([name, values]) => [
      name,
      { dtype: 'f32' as const, shape: [values.length], data: values },
    ]),
  );

/** A state as a checkpoint: one file per set of arrays, counters in the JSON. */
function pack(state: DistillState): Checkpoint {
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

function unpack({ step, arrays: files, state }: Checkpoint): DistillState {
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
