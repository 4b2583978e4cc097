/** attune train: run a training recipe. */

import { mkdirSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';

import { parseYaml, runTraining, TrainRecipe } from '@attune/core';
import { AttuneError, readText } from '@attune/engine';
import { Command } from 'commander';

import { untilInterrupted } from '../interrupt.ts';
import { columnsOf, sideBySide, writeMedia } from '../media/index.ts';
import { heedRecipeLock, type RecipeLockOptions } from '../recipe-lock.ts';
import { openSession } from '../session.ts';
import { pace, progress } from '../terminal.ts';
import { type RuntimeChoice, runtimeOf } from './arguments.ts';

interface Options extends RecipeLockOptions, RuntimeChoice {
  readonly run?: string;
  readonly resume?: boolean;
  readonly json?: boolean;
}

export const trainCommand = (): Command =>
  new Command('train')
    .description('train a backbone or an adapter by a recipe')
    .argument('<recipe>', 'a train.yaml')
    .option('--run <folder>', 'the run’s folder (default: runs/<recipe name>)')
    .option('--resume', 'continue the run from its newest checkpoint')
    .option('--lock', 'write the lock of the recipe’s stack beside it, and train nothing')
    .option('--json', 'one JSON line at the end, on stdout')
    .addHelpText('after', '\nExample:\n  $ attune train recipes/vae.yaml --run runs/vae')
    .action(trainAction);

async function trainAction(file: string, options: Options): Promise<void> {
  const path = resolve(file);
  const recipe = parseYaml(TrainRecipe, readText(path), file);
  const run = options.run ?? join('runs', basename(path).replace(/\.ya?ml$/, ''));
  const { loader, runtime } = openSession(runtimeOf(options), {
    folder: dirname(path),
    paths: recipe.stack.plugins,
  });
  const rate = pace(recipe.train.steps);
  try {
    const locked = {
      file,
      folder: dirname(path),
      command: 'train',
      stacks: { stack: recipe.stack },
    };
    if (await heedRecipeLock(locked, loader, options)) return;
    const { state, complete } = await untilInterrupted((signal) =>
      runTraining(recipe, {
        loader,
        runtime,
        folder: dirname(path),
        run,
        resume: options.resume ?? false,
        signal,
        onSamples: async (step, pixels, prompts) => {
          const columns = columnsOf(pixels, prompts.length);
          const kind = columns[0].length > 1 ? 'webp' : 'png';
          const name = `step-${String(step).padStart(8, '0')}.${kind}`;
          mkdirSync(join(run, 'samples'), { recursive: true });
          await writeMedia(join(run, 'samples', name), sideBySide(columns, prompts));
        },
        onStep: ({ step, loss, validationLoss, gradNorm }) => {
          const line = rate(step);
          const last = step === recipe.train.steps;
          if (step % recipe.log_every !== 0 && validationLoss === undefined && !last) return;
          const unseen =
            validationLoss === undefined ? '' : `  validation ${validationLoss.toFixed(5)}`;
          progress(
            `step ${step}/${recipe.train.steps}  loss ${loss.toFixed(5)}${unseen}  |g| ${gradNorm.toFixed(3)}  ${line}`,
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
