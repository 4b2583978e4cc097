/** attune edit: a picture or a clip, changed as an instruction says. */

import { resolve } from 'node:path';

import {
  blamed,
  type EditModels,
  editFrames,
  type EditRequest,
  type Join,
  joins,
  type LaterTexts,
  type Model,
  ModelRunner,
  openSampler,
  type OpenOptions,
  openStack,
  routesOf,
  type Sampler,
  Sampling,
} from '@attune/core';
import { AttuneError, badArgument } from '@attune/engine';
import { Command, Option } from 'commander';

import { madeWith } from '../made-with.ts';
import {
  checkOutput,
  fitFrame,
  fitFrames,
  type Frame,
  type MediaSource,
  openMedia,
  sideBySide,
  type Sound,
  toFrames,
  writeMedia,
} from '../media/index.ts';
import {
  collectRoute,
  type GivenRoutes,
  instructed,
  type Instructions,
  instructionsOf,
  routeHelp,
  withRoutes,
} from '../routes.ts';
import { stackMedia } from '../stack-media.ts';
import { framesAtOnce, type LockOptions, openStackSession, stackWarnings } from '../stack.ts';
import { strengthsSaid } from '../strengths.ts';
import { progress, say, warn } from '../terminal.ts';
import { type Said, saidOf, timed } from '../texts.ts';
import {
  collect,
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
  readonly instruction: readonly string[];
  readonly negative: string;
  readonly route: GivenRoutes;
  readonly at: readonly LaterTexts[];
  readonly texts?: string;
  readonly join: Join;
  readonly caption: string;
  readonly motionCaption?: string;
  readonly task?: number;
  readonly sampler?: string;
  readonly steps?: number;
  readonly guidance?: number;
  readonly imageGuidance?: number;
  readonly seed: number;
  readonly size?: readonly [number, number];
  readonly window?: number;
  readonly overlap?: number;
  readonly maxFrames?: number;
  readonly fps?: number;
  readonly compare?: boolean;
  readonly audio: boolean;
  readonly allowPartial?: boolean;
  readonly json?: boolean;
}

export const editCommand = (): Command =>
  new Command('edit')
    .description('edit a picture or a clip as an instruction says')
    .argument('<input>', 'png, jpg, webp, gif, mp4, a folder of frames; others with ffmpeg')
    .option(
      '-i, --instruction <text>',
      'what to change; NAME=text is for the adapter of that name alone; may be repeated',
      collect,
      [],
    )
    .requiredOption('-o, --out <file>', '.mp4, .gif, .webp, .png, .jpg or a folder of frames')
    .option('--stack <file|id>', 'a stack with an edit adapter, by file or id', 'pocket/aligned')
    .option('--caption <text>', 'what the result shows', '')
    .option('--motion-caption <text>', 'the same with its motion, for clips (default: --caption)')
    .option(
      '--at <frame=text>',
      'the instruction from a frame on, in place of -i; may be repeated',
      timed,
      [],
    )
    .option('--texts <file.yaml>', 'the same for captions, too: a list of at, instruction, caption')
    .option('--negative <text>', 'what to steer away from', '')
    .option('--route <port=source>', routeHelp, collectRoute, {})
    .option('--task <n>', 'number of the task, where the edit adapter has labels', count)
    .option('--sampler <id>', `${samplers} (default: what the stack says, or ddim)`)
    .option('--steps <n>', 'sampling steps (default: what the stack says)', positive)
    .option('--guidance <s>', 'scale of the words; 1 is none (default: the same)', number)
    .option('--image-guidance <s>', 'scale of the source image (default: the same)', number)
    .option('--seed <n>', 'seed of the noise', count, 0)
    .option('--size <px|WxH>', 'working size; default: what the backbone was made for', pixels)
    .option(
      '--window <n>',
      'frames the model sees at once (default: what it was made for)',
      positive,
    )
    .option('--overlap <n>', 'frames that neighbouring windows share (default: a quarter)', count)
    .addOption(
      new Option(
        '--join <how>',
        'frames that windows share: as the earlier window left them, the others corrected after them (correct), blended step by step (fuse), or both',
      )
        .choices(joins)
        .default('correct'),
    )
    .option('--max-frames <n>', 'stop after so many frames', positive)
    .option('--fps <n>', 'frames per second, in place of those of the input', number)
    .option('--compare', 'write the input beside the result')
    .option('--no-audio', 'leave the sound track out')
    .option('--allow-partial', 'use adapters whose files fit in part, and list what is skipped')
    .option('--json', 'a JSON line on stdout')
    .addHelpText(
      'after',
      '\nExamples:\n  $ attune edit clip.mp4 -i "make it golden" -o golden.mp4\n  $ attune edit clip.mp4 --at 0="make it golden" --at 48="make it icy" -o both.mp4',
    )
    .action(editAction);

/** Pixels above which compiling alone takes so long that it is told. */
const LARGE = 2 ** 21;

/** `64` or `96x64` (width × height) as [height, width]. */
function pixels(text: string): readonly [number, number] {
  const [width, height = width, ...rest] = text.split(/[x×]/).map((part) => positive(part));
  if (rest.length > 0) throw badArgument('--size', text, 'give a side, or width x height');
  return [height, width];
}

async function editAction(input: string, options: Options): Promise<void> {
  const { out, fps, json } = options;
  const source = await openMedia(input, fps === undefined ? {} : { fps });
  const clip = source.kind === 'clip' && source.frameCount !== 1 && options.maxFrames !== 1;
  await checkOutput(out, { clip, inputs: [input] });
  const session = await openStackSession(options.stack, runtimeOf(options), options);
  const { folder, loader, runtime } = session;
  const instructions = instructionsOf(options.instruction, session.stack);
  const said = saidOf(instructions, options.texts, options.at);
  const stack = withRoutes(session.stack, options.route, (image) => resolve(image));
  stackWarnings(session).forEach(warn);
  const { allowPartial = false } = options;
  const how = {
    ...stackMedia,
    onWarning: warn,
    allowPartial,
    ...(options.window === undefined ? {} : { frames: options.window }),
  };
  const told = { ...instructions, all: said.instruction };
  const open = async (more: OpenOptions) =>
    new ModelRunner(instructed(await openStack(stack, folder, loader, more), told), runtime);
  const models = {
    stack: await open(how),
    stills: await open({ ...stackMedia, stills: true, allowPartial }),
  };
  const { model } = models.stack;
  if (source.kind === 'image' && model.adapters.some(({ mixesFrames }) => mixesFrames))
    warn(`${input} is one picture: adapters that mix frames are left out`);
  const sound = soundFor(source, options);
  if (options.task !== undefined) checkTask(model);
  try {
    const sampling = Sampling.parse(stack.sampling ?? {});
    const samplerId = options.sampler ?? sampling.sampler;
    const sampler = await openSampler(samplerId, loader);
    const request = requestOf(model, sampling, sampler, { ...options, said });
    const label = request.instruction || Object.values(instructions.own).join(', ');
    const frames = editedFrames(models, source, request, { ...options, label });
    const written = await writeMedia(out, frames, {
      inputs: [input],
      metadata: madeWith(settingsOf(request, samplerId, told, options), options.stack, session),
      ...(fps === undefined || source.kind === 'image' ? {} : { fps }),
      sound,
    });
    written.notices.forEach(warn);
    if (json) console.log(JSON.stringify(written));
    else say(`wrote ${written.path} (${written.frames} frames)`);
  } catch (error) {
    throw blamed(error, model.weights);
  } finally {
    await models.stack.release();
    await models.stills.release();
  }
}

/** Throws USAGE where no adapter would hear of a task. */
function checkTask(model: Model): void {
  if (routesOf(model).some(({ route }) => route === 'task')) return;
  throw new AttuneError(
    'USAGE',
    '--task: no adapter of this stack has labels for tasks; leave it out, or take an edit adapter that has (attune inspect tells).',
  );
}

/** The request as the result's metadata tells it. */
const settingsOf = (
  request: EditRequest,
  sampler: Sampling['sampler'],
  { own }: Instructions,
  { route, strength }: Options,
) => ({
  instruction: request.instruction,
  instructions: Object.keys(own).length ? own : undefined,
  routes: Object.keys(route).length ? route : undefined,
  strengths: strengthsSaid(strength),
  negative: request.negative,
  caption: request.caption,
  motion_caption: request.motionCaption,
  later: request.later?.length ? request.later : undefined,
  task: request.task,
  seed: request.seed,
  steps: request.plan.steps.length,
  guidance: request.guidance.text,
  image_guidance: request.guidance.image,
  sampler,
  window: request.window.size,
  overlap: request.window.overlap,
  join: request.join,
});

/** The sound to go with the result; that there is none although the input has some is warned of. */
function soundFor({ path, audio, sound, fps }: MediaSource, options: Options): Sound | undefined {
  if (!audio || !options.audio) return undefined;
  const otherSpeed = options.fps !== undefined && Math.abs(options.fps / fps - 1) > 1e-3;
  if (sound && !otherSpeed) return sound;
  const why = otherSpeed
    ? `--fps ${options.fps} plays its ${Number(fps.toFixed(3))} frames a second at another speed`
    : 'it is carried over only from what the optional packages read';
  warn(`${path}: the sound track is left out (${why})`);
  return undefined;
}

/** The result frame by frame, with the times of the source; beside the source where that is asked. */
async function* editedFrames(
  models: EditModels,
  source: MediaSource,
  request: EditRequest,
  { maxFrames = Infinity, compare = false, label }: Options & { readonly label: string },
): AsyncGenerator<Frame> {
  const [height, width] = request.size;
  const waiting: Frame[] = [];
  const read = async function* (): AsyncGenerator<Float32Array> {
    let left = maxFrames;
    for await (const frame of source.frames()) {
      const fitted = await fitFrame(frame, width, height);
      waiting.push(fitted);
      yield fitFrames([fitted], width, height);
      if (--left <= 0) return;
    }
  };
  let done = 0;
  for await (const edited of editFrames(models, read(), request)) {
    const before = waiting.shift()!;
    const [after] = toFrames(edited, width, height, before.delay);
    progress(`frame ${++done}${source.frameCount ? `/${source.frameCount}` : ''}`);
    if (compare) yield* sideBySide([[before], [after]], ['input', label]);
    else yield after;
  }
}

function requestOf(
  { schedule, latents, sampleSize, adapters }: Model,
  sampling: Sampling,
  sampler: Sampler,
  options: Options & { readonly said: Said },
): EditRequest {
  if (!schedule) throw new AttuneError('NO_SCHEDULE', 'The model has no scheduler_config.json.');
  if (!latents) throw new AttuneError('NO_VAE', 'The model has no autoencoder.');
  const { factor } = latents;
  const [height, width] = options.size ?? (sampleSize ?? [64, 64]).map((side) => side * factor);
  if (height % factor || width % factor)
    throw badArgument('--size', `${width}x${height}`, `give multiples of ${factor}`);
  if (width * height > LARGE)
    say(`${width}x${height}: making the nets ready for that many pixels may take minutes`);
  const size = options.window ?? framesAtOnce(adapters);
  const { caption, motionCaption, negative, task, seed, join } = options;
  return {
    instruction: options.said.instruction ?? '',
    later: options.said.later,
    caption,
    negative,
    ...(motionCaption === undefined ? {} : { motionCaption }),
    join,
    ...(task === undefined ? {} : { task }),
    guidance: {
      text: options.guidance ?? sampling.guidance,
      image: options.imageGuidance ?? sampling.image_guidance,
    },
    plan: sampler(schedule, options.steps ?? sampling.steps),
    seed,
    size: [height, width],
    window: { size, overlap: options.overlap ?? Math.floor(size / 4) },
    onNotice: warn,
  };
}
