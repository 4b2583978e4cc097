/** attune demo: a bundled clip edited by the plain stack and by the aligned one, side by side. */

import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

import {
  editFrames,
  type EditModels,
  type EditRequest,
  ModelRunner,
  openSampler,
  openStack,
  type Sampler,
  Sampling,
} from '@attune/core';
import { AttuneError, type F32Array, makeFolder, type Runtime } from '@attune/engine';
import { formatReport, motionRatio, type Report, sharpness } from '@attune/eval';
import { Command } from 'commander';

import {
  type Frame,
  readMedia,
  fitFrames,
  sideBySide,
  toFrames,
  writeMedia,
} from '../media/index.ts';
import { checkPlace, writeWhole } from '../output.ts';
import { htmlPage, type Picture } from '../report/page.ts';
import { openSession } from '../session.ts';
import { stackMedia } from '../stack-media.ts';
import { heedLock, type LockOptions, readStack, type StackArgument } from '../stack.ts';
import { withStrengths } from '../strengths.ts';
import { progress, say } from '../terminal.ts';
import {
  count,
  positive,
  type RuntimeChoice,
  runtimeOf,
  type StrengthChoice,
} from './arguments.ts';

interface Options extends LockOptions, RuntimeChoice, StrengthChoice {
  readonly out: string;
  readonly clip: string;
  readonly instruction?: string;
  readonly caption?: string;
  readonly seed: number;
  readonly steps?: number;
}

export const demoCommand = (): Command =>
  new Command('demo')
    .description('edit a bundled clip with the plain and with the aligned stack')
    .option('--clip <n|file>', 'number of a bundled clip, or a clip of your own', '2')
    .option('--instruction <text>', 'another edit than the bundled one')
    .option('--caption <text>', 'what the result shows; the bundled edit brings its own')
    .option('--seed <n>', 'seed of the noise', count, 0)
    .option('--steps <n>', 'sampling steps (default: what the stacks say)', positive)
    .option('-o, --out <folder>', 'where the clips and the page go', 'attune-demo')
    .addHelpText('after', '\nExample:\n  $ attune demo --clip 3 --seed 1')
    .action(demoAction);

type Pocket = typeof import('@attune/pocket');
type Trial = ReturnType<Pocket['trialOf']>;

/** How long a frame of a bundled clip is shown, in ms. */
const DELAY = 125;

/** What is edited. */
interface Clip {
  readonly name: string;
  /** [F, 3, H, W] in [0, 1]. */
  readonly frames: F32Array;
  readonly delays: readonly number[];
  readonly instruction: string;
  readonly caption: string;
  readonly motionCaption: string;
  /** Where the exact result is known. */
  readonly trial?: Trial;
}

async function demoAction(options: Options): Promise<void> {
  const { out } = options;
  checkPlace(out, 'folder');
  if (existsSync(out)) checkPlace(join(out, 'index.html'), 'file');
  const pocket = await openPocket();
  const began = performance.now();
  const { loader, runtime } = openSession(runtimeOf(options));
  const bundled: StackArgument[] = [];
  for (const name of ['plain', 'aligned']) {
    const argument = await readStack(`pocket/${name}`);
    await heedLock(`pocket/${name}`, argument, loader, options);
    bundled.push(argument);
  }
  const stacks = withStrengths(
    bundled.map(({ stack }) => stack),
    options.strength,
    (mask) => resolve(mask),
  );
  const clip = await clipOf(pocket, options);
  say(`${clip.name}: "${clip.instruction}"`);
  const results: { name: string; frames: F32Array }[] = [];
  for (const [i, name] of ['plain', 'aligned'].entries()) {
    const [stack, { folder }] = [stacks[i], bundled[i]];
    const open = async (stills: boolean): Promise<ModelRunner> =>
      new ModelRunner(await openStack(stack, folder, loader, { ...stackMedia, stills }), runtime);
    const models = { stack: await open(false), stills: await open(true) };
    const sampling = Sampling.parse(stack.sampling ?? {});
    const sampler = await openSampler(sampling.sampler, loader);
    try {
      const how = { ...options, ...given(sampling, options), sampler };
      const frames = await edited(models, clip, how, name);
      results.push({ name, frames });
    } finally {
      await models.stack.release();
      await models.stills.release();
    }
  }
  const report = await measured(pocket, clip, results, runtime);
  process.stdout.write(`${formatReport(report)}\n\n`);
  const files = await written(clip, results, report, out);
  const seconds = ((performance.now() - began) / 1000).toFixed(1);
  process.stdout.write(`${files.join('\n')}\n${seconds} s\n`);
}

type HowToSample = Options & Omit<Sampling, 'sampler'> & { readonly sampler: Sampler };

const given = (sampling: Sampling, { steps }: Options): Sampling =>
  steps === undefined ? sampling : { ...sampling, steps };

async function openPocket(): Promise<Pocket> {
  try {
    return await import('@attune/pocket');
  } catch {
    throw new AttuneError(
      'PEER_MISSING',
      'The demo edits with the bundled models: npm install @attune/pocket',
    );
  }
}

async function clipOf(pocket: Pocket, options: Options): Promise<Clip> {
  const { SIDE: side, FRAMES: most } = pocket;
  if (!/^\d+$/.test(options.clip)) {
    const fit = { width: side, height: side };
    const { frames } = await readMedia(options.clip, { maxFrames: most, fit });
    if (options.instruction === undefined)
      throw new AttuneError('BAD_ARGUMENT', 'A clip of your own needs an --instruction.');
    const caption = options.caption ?? '';
    return {
      name: options.clip,
      frames: {
        dtype: 'f32',
        shape: [frames.length, 3, side, side],
        data: await fitFrames(frames, side, side),
      },
      delays: frames.map(({ delay }) => delay || DELAY),
      instruction: options.instruction,
      caption,
      motionCaption: caption,
    };
  }
  const trial = pocket.trialOf('demo', Number(options.clip));
  const { edit } = trial;
  const own = options.instruction === undefined || options.instruction === edit.instruction;
  const caption = options.caption ?? (own ? edit.caption : '');
  return {
    name: `clip ${options.clip}`,
    frames: pocket.framesOf(trial.source),
    delays: Array.from({ length: most }, () => DELAY),
    instruction: options.instruction ?? edit.instruction,
    caption,
    motionCaption: options.caption ?? (own ? edit.motionCaption : ''),
    ...(own ? { trial } : {}),
  };
}

async function edited(
  models: EditModels,
  { frames, instruction, caption, motionCaption }: Clip,
  { seed, sampler, steps, guidance, image_guidance }: HowToSample,
  name: string,
): Promise<F32Array> {
  const { schedule } = models.stack.model;
  if (!schedule) throw new AttuneError('NO_SCHEDULE', 'The model has no scheduler_config.json.');
  const [F, , H, W] = frames.shape;
  const size = 3 * H * W;
  const request: EditRequest = {
    instruction,
    caption,
    motionCaption,
    guidance: { text: guidance, image: image_guidance },
    plan: sampler(schedule, steps),
    seed,
    size: [H, W],
    window: { size: F, overlap: 0 },
    onStep: (done, of, part) => progress(`${name}: ${part}, step ${done}/${of}`),
  };
  const each = Array.from({ length: F }, (_, f) => frames.data.subarray(f * size, (f + 1) * size));
  const data = new Float32Array(frames.data.length);
  let at = 0;
  for await (const frame of editFrames(models, each, request)) {
    data.set(
      frame.map((v) => Math.round(255 * Math.min(1, Math.max(0, v))) / 255),
      at,
    );
    at += size;
  }
  return { ...frames, data };
}

/** Against the exact result where it is known; else against the input. */
async function measured(
  pocket: Pocket,
  { frames: source, trial }: Clip,
  results: readonly { readonly name: string; readonly frames: F32Array }[],
  runtime: Runtime,
): Promise<Report> {
  if (!trial)
    return {
      title: 'Measured in this run, against the input (the exact result is not known)',
      metrics: [
        { key: 'motion', label: 'motion / input' },
        { key: 'sharpness', label: 'gradient energy / input, at most 1' },
      ],
      rows: results.map(({ name, frames }) => ({
        name,
        values: {
          motion: motionRatio(frames, source),
          sharpness: sharpness(frames, source),
        },
      })),
    };
  const scorer = await pocket.Scorer.open(pocket.modelsFolder(), runtime);
  try {
    const all = [{ name: 'input', frames: source }, ...results];
    const rows = [];
    for (const { name, frames } of all)
      rows.push({ name, values: await scorer.score(trial, frames) });
    return {
      title: 'Measured in this run, against the exact result',
      metrics: [...pocket.metrics],
      rows,
    };
  } finally {
    await scorer.release();
  }
}

async function written(
  { frames: source, delays, name: title, instruction, trial }: Clip,
  results: readonly { readonly name: string; readonly frames: F32Array }[],
  report: Report,
  out: string,
): Promise<string[]> {
  makeFolder(out);
  const [, , H, W] = source.shape;
  const columns = [{ name: 'input', frames: source }, ...results].map(({ name, frames }) => ({
    name,
    frames: toFrames(frames.data, W, H, delays),
  }));
  const pictures: Picture[] = [];
  const files: string[] = [];
  const write = async (name: string, frames: readonly Frame[]): Promise<Uint8Array> => {
    const file = join(out, `${name}.webp`);
    await writeMedia(file, frames, { metadata: { instruction } });
    files.push(file);
    return readFileSync(file);
  };
  for (const { name, frames } of columns)
    pictures.push({ label: name, bytes: await write(name, frames), type: 'image/webp' });
  await write(
    'side-by-side',
    sideBySide(
      columns.map(({ frames }) => frames),
      columns.map(({ name }) => name),
    ),
  );
  const page = htmlPage({
    title: `attune: "${instruction}"`,
    about: [
      `${title}${trial ? `; the result should show: ${trial.edit.motionCaption}` : ''}.`,
      'Plain: edit and video adapters stacked on the frozen backbone. Aligned: the same with the LoRA that factorized diffusion distillation trained, without any edited video.',
    ],
    pictures,
    reports: [report],
  });
  const index = join(out, 'index.html');
  writeWhole([{ path: index, text: page, force: true }]);
  return [...files, index];
}
