/** attune generate: pictures or clips from a prompt. */

import { ddimPlan, ModelRunner, openStack, sample } from '@attune/core';
import { AttuneError, type F32Array, Rng } from '@attune/engine';
import { Command } from 'commander';

import { assertWritable, sideBySide, toFrames, writeMedia } from '../media/index.ts';
import { openStackSession, stackWarnings } from '../stack.ts';
import { progress, say, warn } from '../terminal.ts';
import { count, number, positive, runtimeOf } from './arguments.ts';

interface Options {
  readonly out: string;
  readonly stack: string;
  readonly steps: number;
  readonly guidance: number;
  readonly negative: string;
  readonly seed: number;
  readonly frames: number;
  readonly size?: number;
  readonly threads?: number;
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
    .option('--steps <n>', 'sampling steps', positive, 25)
    .option('--guidance <s>', 'scale: uncond + s · (cond − uncond); 1 is none', number, 3)
    .option('--negative <prompt>', 'what to steer away from', '')
    .option('--seed <n>', 'seed of the noise', count, 0)
    .option('--frames <n>', 'frames of a clip', positive, 1)
    .option('--size <px>', 'side of the picture', positive)
    .option('--threads <n>', 'threads inside an operation', positive)
    .option('--json', 'a JSON line on stdout')
    .addHelpText(
      'after',
      '\nExample:\n  $ attune generate "a golden lion under a night sky" -o lion.png',
    )
    .action(generateAction);

async function generateAction(prompts: readonly string[], options: Options): Promise<void> {
  await assertWritable(options.out, []);
  const session = await openStackSession(options.stack, runtimeOf(options));
  const { stack, folder, loader, runtime } = session;
  stackWarnings(session).forEach(warn);
  const runner = new ModelRunner(await openStack(stack, folder, loader), runtime);
  try {
    const latents = await generate(runner, prompts, options);
    const pixels = await runner.decodeLatents(latents);
    const unit = pixels.data.map((value) => (value + 1) / 2);
    const [, , H, W] = pixels.shape;
    const size = 3 * H * W * options.frames;
    const columns = prompts.map((_, i) => toFrames(unit.subarray(i * size, (i + 1) * size), W, H));
    const frames = columns.length > 1 ? sideBySide(columns, prompts) : columns[0];
    const written = await writeMedia(options.out, frames, {
      metadata: { prompt: prompts.join(' | '), seed: String(options.seed), stack: options.stack },
    });
    if (options.json) console.log(JSON.stringify(written));
    else say(`wrote ${written.path}`);
  } finally {
    await runner.release();
  }
}

async function generate(
  runner: ModelRunner,
  prompts: readonly string[],
  { steps, guidance, negative, seed, frames: F, size }: Options,
): Promise<F32Array> {
  const { schedule } = runner.model;
  if (!schedule) throw new AttuneError('NO_SCHEDULE', 'The model has no scheduler_config.json.');
  const { factor, channels } = runner.latents;
  if (size !== undefined && size % factor)
    throw new AttuneError(
      'BAD_ARGUMENT',
      `--size ${size}: the autoencoder makes multiples of ${factor}.`,
    );
  const side = size === undefined ? (runner.model.sampleSize?.[0] ?? 64) : size / factor;
  const { states, truncated } = await runner.encodeText(prompts);
  for (const { prompt, length } of truncated)
    warn(
      `"${prompt.slice(0, 40)}…" has ${length} tokens; the text encoder reads ${states.shape[1]}, the rest was cut`,
    );
  const B = prompts.length;
  const { states: none } = await runner.encodeText(prompts.map(() => negative));
  return sample(runner, {
    dims: { B, F, H: side, W: side, L: states.shape[1] },
    branches: { text: { encoder_hidden_states: states }, none: { encoder_hidden_states: none } },
    guidance: {
      convention: 'uncond+s*delta',
      terms: [{ base: 'none', cond: 'text', scale: guidance }],
    },
    plan: ddimPlan(schedule, steps),
    noise: Rng.of(seed)
      .fork('noise')
      .normals([B * F, channels, side, side]),
    onStep: (done, of) => progress(`step ${done}/${of}`),
  });
}
