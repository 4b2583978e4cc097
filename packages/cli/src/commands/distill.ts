/** attune distill: align a stack by a distillation recipe. */

import { basename, dirname, join, resolve } from 'node:path';

import { parseYaml, type StackFile } from '@attune/core';
import { AttuneError, readText } from '@attune/engine';
import { DistillRecipe, runDistillation } from '@attune/fdd';
import { Command } from 'commander';

import { untilInterrupted } from '../interrupt.ts';
import { heedRecipeLock, type RecipeLockOptions } from '../recipe-lock.ts';
import { openSession } from '../session.ts';
import { pace, progress } from '../terminal.ts';
import { type RuntimeChoice, runtimeOf } from './arguments.ts';

interface Options extends RecipeLockOptions, RuntimeChoice {
  readonly run?: string;
  readonly resume?: boolean;
  readonly json?: boolean;
}

export const distillCommand = (): Command =>
  new Command('distill')
    .description('align a stack with its teachers, without supervised data')
    .argument('<recipe>', 'a distill.yaml')
    .option('--run <folder>', 'the run’s folder (default: runs/<recipe name>)')
    .option('--resume', 'continue the run from its newest checkpoint')
    .option('--lock', 'write the lock of the recipe’s stacks beside it, and distill nothing')
    .option('--json', 'one JSON line at the end, on stdout')
    .addHelpText('after', '\nExample:\n  $ attune distill recipes/align.yaml --run runs/align')
    .action(distillAction);

/** Every stack that a run of the recipe opens, by its place in it. */
function stacksOf({ distill: { student, teachers } }: DistillRecipe): Record<string, StackFile> {
  const stacks: Record<string, StackFile> = { student: student.stack };
  for (const [id, { stack, fake }] of Object.entries(teachers)) {
    stacks[`teachers.${id}`] = stack;
    if (fake) stacks[`fakes.${id}`] = { ...stack, adapters: [...stack.adapters, ...fake.adapters] };
  }
  return stacks;
}

async function distillAction(file: string, options: Options): Promise<void> {
  const path = resolve(file);
  const recipe = parseYaml(DistillRecipe, readText(path), file);
  const { phases } = recipe.distill;
  const stacks = stacksOf(recipe);
  const { loader, runtime } = openSession(runtimeOf(options), {
    folder: dirname(path),
    paths: [...new Set(Object.values(stacks).flatMap(({ plugins }) => plugins))],
  });
  const total = phases[phases.length - 1].until;
  const rate = pace(total);
  try {
    const locked = { file, folder: dirname(path), command: 'distill', stacks };
    if (await heedRecipeLock(locked, loader, options)) return;
    const {
      state,
      complete,
      path: run,
    } = await untilInterrupted((signal) =>
      runDistillation(recipe, {
        loader,
        runtime,
        folder: dirname(path),
        run: options.run ?? join('runs', basename(path).replace(/\.ya?ml$/, '')),
        resume: options.resume ?? false,
        signal,
        onJudged: (done, of) => progress(`judging candidates ${done}/${of}`),
        onStep: ({ step: now, pulls, gradNorm, deviation }) => {
          const sizes = Object.entries(pulls)
            .map(
              ([id, { sds, adversarial }]) =>
                `${id} ${sds.toExponential(1)}/${adversarial.toExponential(1)}`,
            )
            .join('  ');
          progress(
            `step ${now}/${total}  |g| ${gradNorm.toExponential(2)}  σ ${deviation.toFixed(2)}  ${sizes}  ${rate(now)}`,
          );
        },
      }),
    );
    if (options.json) console.log(JSON.stringify({ run, step: state.step, complete }));
    if (!complete)
      throw new AttuneError('INTERRUPTED', `stopped at step ${state.step}; continue with --resume`);
  } finally {
    await runtime.release();
  }
}
