/** attune train: run a training recipe. */

import { readFileSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';

import { parseYaml, runTraining, TrainRecipe } from '@attune/core';
import { AttuneError } from '@attune/engine';
import { Command } from 'commander';

import { openSession } from '../session.ts';

interface Options {
  readonly run?: string;
  readonly resume?: boolean;
  readonly threads?: string;
  readonly json?: boolean;
}

export const trainCommand = (): Command =>
  new Command('train')
    .description('train a backbone or an adapter by a recipe')
    .argument('<recipe>', 'a train.yaml')
    .option('--run <folder>', 'the run’s folder (default: runs/<recipe name>)')
    .option('--resume', 'continue the run from its newest checkpoint')
    .option('--threads <n>', 'threads inside an operation')
    .option('--json', 'one JSON line at the end, on stdout')
    .addHelpText('after', '\nExample:\n  $ attune train recipes/vae.yaml --run runs/vae')
    .action(trainAction);

async function trainAction(file: string, options: Options): Promise<void> {
  const path = resolve(file);
  const recipe = parseYaml(TrainRecipe, readText(path), file);
  const run = options.run ?? join('runs', basename(path).replace(/\.ya?ml$/, ''));
  const { loader, runtime } = openSession(
    options.threads ? { threads: Number(options.threads) } : {},
    { cwd: dirname(path), paths: recipe.stack.plugins },
  );
  const stop = new AbortController();
  const onInterrupt = () => {
    if (stop.signal.aborted) process.exit(130);
    process.stderr.write('\nstopping after this step; press Ctrl-C again to quit at once\n');
    stop.abort();
  };
  process.on('SIGINT', onInterrupt);
  const began = performance.now();
  let first: number | undefined;
  try {
    const { state, complete } = await runTraining(recipe, {
      loader,
      runtime,
      folder: dirname(path),
      run,
      resume: options.resume ?? false,
      signal: stop.signal,
      onStep: ({ step, loss, gradNorm }) => {
        first ??= step;
        if (step % recipe.log_every !== 0) return;
        const each = (performance.now() - began) / (step - first + 1) / 1000;
        const left = Math.round(each * (recipe.train.steps - step));
        process.stderr.write(
          `step ${step}/${recipe.train.steps}  loss ${loss.toFixed(5)}  |g| ${gradNorm.toFixed(3)}  ${each.toFixed(2)} s/step  ${left} s left\n`,
        );
      },
    });
    if (options.json) console.log(JSON.stringify({ run, step: state.step, complete }));
    if (!complete)
      throw new AttuneError('INTERRUPTED', `stopped at step ${state.step}; continue with --resume`);
  } finally {
    process.off('SIGINT', onInterrupt);
    await runtime.release();
  }
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new AttuneError('MISSING_FILE', `${path} cannot be read: ${reason}.`);
  }
}
