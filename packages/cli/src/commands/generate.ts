/** attune generate: pictures or clips from a prompt. */

import { resolve } from 'node:path';

import { blamed, generate, ModelRunner, openSampler, openStack, type Sampler } from '@attune/core';
import { AttuneError, type F32Array, Rng } from '@attune/engine';
import { Command } from 'commander';

import { madeWith } from '../made-with.ts';
import { checkOutput, columnsOf, sideBySide, writeMedia } from '../media/index.ts';
import { collectRoute, type GivenRoutes, routeHelp, withRoutes } from '../routes.ts';
import { stackMedia } from '../stack-media.ts';
import { type LockOptions, openStackSession, stackWarnings } from '../stack.ts';
import { strengthsSaid } from '../strengths.ts';
import { progress, say, warn } from '../terminal.ts';
import {
  count,
  number,
  positive,
  type RuntimeChoice,
  runtimeOf,
  samplers,
  type StrengthChoice,
} from './arguments.ts';

interface Options extends LockOptions, RuntimeChoice, StrengthChoice {
  readonly out: string;
  readonly stack: string;
  readonly sampler?: string;
  readonly steps: number;
  readonly guidance: number;
  readonly negative: string;
  readonly route: GivenRoutes;
  readonly seed: number;
  readonly frames: number;
  readonly size?: number;
  readonly allowPartial?: boolean;
  readonly json?: boolean;
}

export const generateCommand = (): Command =>
  new Command('generate')
    .description('make a picture or a clip from a prompt')
    .argument('<prompt...>', 'one prompt per picture')
    .requiredOption('-o, --out <file>', 'png, webp, jpg; for clips also gif, mp4 or a folder')
    .option(
      '--stack <file|id>',
      'a stack.yaml, a model folder, or the id of a bundled one',
      'pocket',
    )
    .option('--sampler <id>', `${samplers} (default: what the stack says, or ddim)`)
    .option('--steps <n>', 'sampling steps', positive, 25)
    .option('--guidance <s>', 'scale: uncond + s · (cond − uncond); 1 is none', number, 3)
    .option('--negative <prompt>', 'what to steer away from', '')
    .option('--route <port=source>', routeHelp, collectRoute, {})
    .option('--seed <n>', 'seed of the noise', count, 0)
    .option('--frames <n>', 'frames of a clip', positive, 1)
    .option('--size <px>', 'side of the picture', positive)
    .option('--allow-partial', 'use adapters whose files fit in part, and list what is skipped')
    .option('--json', 'a JSON line on stdout')
    .addHelpText(
      'after',
      '\nExample:\n  $ attune generate "a golden lion under a night sky" -o lion.png',
    )
    .action(generateAction);

async function generateAction(prompts: readonly string[], options: Options): Promise<void> {
  await checkOutput(options.out, { clip: options.frames > 1 });
  const session = await openStackSession(options.stack, runtimeOf(options), options);
  const { folder, loader, runtime } = session;
  const stack = withRoutes(session.stack, options.route, (image) => resolve(image));
  stackWarnings(session).forEach(warn);
  const { allowPartial = false } = options;
  const how = { frames: options.frames, ...stackMedia, onWarning: warn, allowPartial };
  const model = await openStack(stack, folder, loader, how);
  const runner = new ModelRunner(model, runtime);
  try {
    const samplerId = options.sampler ?? stack.sampling?.sampler ?? 'ddim';
    const sampler = await openSampler(samplerId, loader);
    const latents = await latentsOf(runner, prompts, { ...options, sampler });
    const columns = columnsOf(await runner.decodeLatents(latents), prompts.length);
    const frames = columns.length > 1 ? sideBySide(columns, prompts) : columns[0];
    const written = await writeMedia(options.out, frames, {
      metadata: madeWith(
        {
          prompt: prompts.join(' | '),
          negative: options.negative,
          seed: options.seed,
          steps: options.steps,
          guidance: options.guidance,
          sampler: samplerId,
          routes: Object.keys(options.route).length ? options.route : undefined,
          strengths: strengthsSaid(options.strength),
        },
        options.stack,
        session,
      ),
    });
    if (options.json) console.log(JSON.stringify(written));
    else say(`wrote ${written.path}`);
  } catch (error) {
    throw blamed(error, model.weights);
  } finally {
    await runner.release();
  }
}

/** Latents of the prompts; what the text encoder cut is warned of. */
async function latentsOf(
  runner: ModelRunner,
  prompts: readonly string[],
  { size, seed, ...options }: Omit<Options, 'sampler'> & { readonly sampler: Sampler },
): Promise<F32Array> {
  const { factor } = runner.latents;
  if (size !== undefined && size % factor)
    throw new AttuneError(
      'BAD_ARGUMENT',
      `--size ${size}: the autoencoder makes multiples of ${factor}.`,
    );
  const { latents, truncated, limit } = await generate(runner, prompts, {
    ...options,
    rng: Rng.of(seed).fork('noise'),
    ...(size === undefined ? {} : { side: size / factor }),
    onStep: (done, of) => progress(`step ${done}/${of}`),
  });
  for (const { prompt, length } of truncated)
    warn(
      `"${prompt.slice(0, 40)}…" has ${length} tokens; the text encoder reads ${limit}, the rest was cut`,
    );
  return latents;
}
