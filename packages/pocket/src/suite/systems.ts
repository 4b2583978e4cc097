/** What is compared on a trial: stacks, and the baselines that need no alignment. */

import { join } from 'node:path';

import {
  type Contestant,
  ddimPlan,
  editFrames,
  type EditRequest,
  ModelRunner,
  type NoiseSchedule,
  type Plan,
  sample,
  StackFile,
  type SuiteContext,
} from '@attune/core';
import { AttuneError, type F32Array, Rng } from '@attune/engine';
import { rowsOf } from '@attune/eval';

import { adaptersFolder } from '../folders.ts';
import { FRAMES } from '../world/motion.ts';
import { SIDE } from '../world/paint.ts';
import { framesOf, type Trial } from './trial.ts';

export interface System {
  readonly name: string;
  /** The edited clip [F, 3, H, W] in [0, 1], in steps of 1 / 255 as any file has it. */
  edit(trial: Trial, seed: number): Promise<F32Array>;
  release(): Promise<void>;
}

/** A stack as `attune edit` runs it, with the target's captions. */
export function stackSystem({ name, models, sampling, sampler }: Contestant): System {
  return {
    name,
    edit: async (trial, seed) => {
      const frames: Float32Array[] = [];
      const source = framesOf(trial.source);
      const each = Array.from({ length: FRAMES }, (_, f) => rowsOf(source, f, f + 1).data);
      const plan = sampler(scheduleOf(models.stack), sampling.steps);
      const request = requestFor(trial, seed, sampling, plan);
      for await (const frame of editFrames(models, each, request)) frames.push(frame);
      const data = new Float32Array(source.data.length);
      frames.forEach((frame, f) => data.set(frame, f * frame.length));
      return rounded({ ...source, data });
    },
    release: async () => {
      await models.stack.release();
      await models.stills.release();
    },
  };
}

type Scales = Contestant['sampling'];

function requestFor(
  { edit, id }: Trial,
  seed: number,
  { guidance, image_guidance }: Scales,
  plan: Plan,
): EditRequest {
  return {
    instruction: edit.instruction,
    caption: edit.caption,
    motionCaption: edit.motionCaption,
    guidance: { text: guidance, image: image_guidance },
    plan,
    seed: noiseSeed(seed, id),
    size: [SIDE, SIDE],
    window: { size: FRAMES, overlap: 0 },
  };
}

/** One noise for each trial and seed, the same for every system. */
const noiseSeed = (seed: number, id: number): number => seed * 1_000_003 + id;

/** Share of the noising time from which SDEdit starts, as in the paper. */
const SDEDIT = 0.75;

/**
 * Copying the input; the edit teacher frame by frame; the video teacher from the edited first frame
 * and the caption, blind to the source; SDEdit (Meng et al. 2022) on the video teacher.
 */
export async function baselines(
  { open, runtime }: SuiteContext,
  sampling: Scales,
): Promise<System[]> {
  const stack = async (use: string): Promise<ModelRunner> => {
    const adapters = [{ use, from: join(adaptersFolder(), use) }];
    return new ModelRunner(await open(StackFile.parse({ backbone: 'pocket', adapters })), runtime);
  };
  const [edit, video] = [await stack('edit'), await stack('video')];
  const alone = stackSystem({
    name: 'edit teacher, each frame',
    models: { stack: edit, stills: edit },
    sampling,
    sampler: ddimPlan,
  });
  return [
    {
      name: 'copy of the input',
      edit: async ({ source }) => rounded(framesOf(source)),
      release: async () => {},
    },
    alone,
    blind('video teacher', { edit, video }, sampling, 1),
    blind(`SDEdit ${SDEDIT}`, { edit, video }, sampling, SDEDIT),
  ];
}

/** The video teacher alone, from noise or (`share` < 1) from the noised source. */
function blind(
  name: string,
  { edit, video }: { readonly edit: ModelRunner; readonly video: ModelRunner },
  sampling: Scales,
  share: number,
): System {
  const { steps, guidance } = sampling;
  return {
    name,
    edit: async (trial, seed) => {
      const schedule = scheduleOf(video);
      const still = rowsOf(framesOf(trial.source), 0, 1);
      const request = requestFor(trial, seed, sampling, ddimPlan(schedule, steps));
      const models = { stack: edit, stills: edit };
      const { value: first } = await editFrames(models, [still.data], request).next();
      const begin = await video.encodeImages(rounded({ ...still, data: first! }));
      const { states } = await video.encodeText([trial.edit.motionCaption, '']);
      const source = await video.encodeImages(framesOf(trial.source));
      const noise = Rng.of(noiseSeed(seed, trial.id)).fork('blind').normals(source.shape);
      const times = schedule
        .timesteps(steps, 'trailing')
        .filter((t) => t < share * schedule.length || share === 1);
      const [alpha, sigma] = share === 1 ? [0, 1] : levels(schedule, times[0]);
      const [F, , H, W] = source.shape;
      const feeds = (row: number) => ({
        encoder_hidden_states: rowsOf(states, row, row + 1),
        'video.first_frame': begin,
      });
      const latents = await sample(video, {
        dims: { B: 1, F, H, W, L: states.shape[1] },
        branches: { text: feeds(0), none: feeds(1) },
        guidance: {
          convention: 'uncond+s*delta',
          terms: [{ base: 'none', cond: 'text', scale: guidance }],
        },
        plan: ddimPlan(schedule, times),
        noise: {
          ...source,
          data: source.data.map((value, i) => alpha * value + sigma * noise.data[i]),
        },
      });
      return rounded(await video.decodeLatents(latents));
    },
    release: () => video.release(),
  };
}

const levels = (schedule: NoiseSchedule, t: number): [number, number] => [
  schedule.alpha(t),
  schedule.sigma(t),
];

function scheduleOf({ model }: ModelRunner): NoiseSchedule {
  if (model.schedule) return model.schedule;
  throw new AttuneError('NO_SCHEDULE', 'The model has no scheduler_config.json.');
}

const rounded = (frames: F32Array): F32Array => ({
  ...frames,
  data: frames.data.map((value) => Math.round(255 * Math.min(1, Math.max(0, value))) / 255),
});
