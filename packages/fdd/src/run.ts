/** A distillation recipe as a run in a folder: stacks opened, the aligned adapter at the end. */

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

import {
  type Checkpoint,
  CheckpointPlan,
  drive,
  exportTrained,
  type Learner,
  materialize,
  type Model,
  nominalDims,
  openSampler,
  openStack,
  type Outcome,
  packLearner,
  type Params,
  type PluginLoader,
  type RunRequest,
  Sampling,
  type StackFile,
  unpackLearner,
} from '@attune/core';
import { Rng, type Runtime } from '@attune/engine';
import { stringify } from 'yaml';
import { z } from 'zod';

import { DistillConfig } from './config.ts';
import { distill, type DistillReport, type DistillState } from './distill.ts';
import { Candidates, type Choice, KeepBestConfig } from './keep-best.ts';

/** A recipe of `attune distill`, parsed. Unknown keys are errors. */
export const DistillRecipe = z.strictObject({
  distill: DistillConfig,
  /** What the student generates for: a plugin's data source with prompts. */
  data: z.looseObject({ use: z.string() }),
  checkpoint: CheckpointPlan.prefault({}),
  /** Without it the last step is the result. */
  keep_best: KeepBestConfig.optional(),
});
/** A checked recipe with its defaults filled in. */
export type DistillRecipe = z.infer<typeof DistillRecipe>;

/** What a run needs beside its recipe. */
export interface DistillRunOptions extends RunRequest<DistillReport> {
  readonly loader: PluginLoader;
  readonly runtime: Runtime;
  /** Paths in the recipe are relative to this folder. */
  readonly folder: string;
  /** While the candidates of `keep_best` are judged, at the end. */
  readonly onJudged?: (done: number, of: number) => void;
}

/** Runs a recipe to its end or until the signal. */
export async function runDistillation(
  recipe: DistillRecipe,
  { loader, runtime, folder, onJudged, ...request }: DistillRunOptions,
): Promise<Outcome<DistillState>> {
  const config = recipe.distill;
  const open = async (stack: StackFile, how?: { readonly stills?: boolean }): Promise<Model> =>
    materialize(await openStack(stack, folder, loader, how), {
      dims: nominalDims,
      seed: config.seed,
    });
  const own = config.student.stack;
  const student = await open(own);
  const teachers: Record<string, Model> = {};
  for (const [id, teacher] of Object.entries(config.teachers))
    teachers[id] = await open(teacher.stack);
  const fakes: Record<string, Model> = {};
  for (const [id, { stack, fake }] of Object.entries(config.teachers))
    if (fake) fakes[id] = await open({ ...stack, adapters: [...stack.adapters, ...fake.adapters] });
  const source = await loader.configured('data', recipe.data, 'data');
  const data = await source.kind.create(source.options, student);
  const rng = Rng.of(config.seed);
  const { keep_best: keepBest } = recipe;
  const { weights } = student;
  const candidates = new Candidates(
    join(request.run, 'candidates'),
    (name) => weights.entry(name).shape,
  );
  const total = config.phases[config.phases.length - 1].until;
  const choose = async (names: readonly string[]): Promise<Choice> => {
    const start = names.map((name) => [name, weights.entry(name).load().data as Float32Array]);
    const sampling = Sampling.parse(own.sampling ?? {});
    return candidates.choose(keepBest!, Object.fromEntries(start) as Params, {
      student,
      stills: await open(own, { stills: true }),
      sampling,
      sampler: await openSampler(sampling.sampler, loader),
      loader,
      context: {
        runtime,
        open: (stack, how) => openStack(stack, folder, loader, how),
        ...(onJudged ? { onProgress: onJudged } : {}),
      },
    });
  };
  return drive<DistillState, DistillReport>({
    ...request,
    recipe: stringify(recipe),
    checkpoint: recipe.checkpoint,
    total,
    seed: config.seed,
    iterate: async function* (from) {
      const pool = join(request.run, 'pool');
      const whole = { student, teachers, fakes, data, config, runtime, rng, pool };
      for await (const turn of distill(whole, from)) {
        const { step, ema, params } = turn.state;
        if (keepBest && (step % keepBest.every === 0 || step === total))
          candidates.save(step, ema ?? params);
        yield turn;
      }
    },
    pack,
    unpack,
    line: (report) => ({ ...report }),
    finish: async (state, target, metadata) => {
      const choice = keepBest && (await choose(Object.keys(state.params)));
      exportTrained(student, choice?.params ?? state.ema ?? state.params, target, {
        metadata: choice ? { ...metadata, 'attune.kept_step': String(choice.step) } : metadata,
      });
      if (!choice) return;
      writeFileSync(join(target, 'keep-best.md'), `${choice.text}\n`);
      writeFileSync(join(target, 'keep-best.json'), `${JSON.stringify(choice.data, null, 2)}\n`);
    },
  });
}

/** The opponents' files begin with the kind and the teacher. */
const prefixes = {
  critics: (id: string): string => `critic-${id}-`,
  fakes: (id: string): string => `fake-${id}-`,
} as const;
const kinds = ['critics', 'fakes'] as const;

/** A state as a checkpoint: one file per set of arrays, counters in the JSON. */
function pack(state: DistillState): Checkpoint {
  const files = kinds.flatMap((kind) =>
    Object.entries(state[kind]).map(([id, one]) =>
      packLearner(one, { prefix: prefixes[kind](id) }),
    ),
  );
  const counts = kinds.map((kind) => {
    const steps = Object.entries(state[kind]).map(([id, { optimizer }]) => [id, optimizer.step]);
    return [kind, Object.fromEntries(steps)];
  });
  return {
    step: state.step,
    arrays: Object.assign({}, packLearner(state), ...files) as Checkpoint['arrays'],
    state: { updates: state.optimizer.step, ...Object.fromEntries(counts) },
  };
}

function unpack({ step, arrays, state }: Checkpoint): DistillState {
  const { updates, ...counts } = state as { updates: number } & Partial<
    Record<(typeof kinds)[number], Record<string, number>>
  >;
  const opponents = (kind: (typeof kinds)[number]): Record<string, Learner> =>
    Object.fromEntries(
      Object.entries(counts[kind] ?? {}).map(([id, count]) => [
        id,
        unpackLearner(arrays, count, prefixes[kind](id)),
      ]),
    );
  return {
    step,
    ...unpackLearner(arrays, updates),
    critics: opponents('critics'),
    fakes: opponents('fakes'),
  };
}
