/** Pictures and clips from prompts alone. */

import { AttuneError, type F32Array, type Rng } from '@attune/engine';

import { ddimPlan } from '../schedule/ddim.ts';
import type { Sampler } from '../schedule/sampler.ts';
import { Conditions } from './conditions.ts';
import { inPieces } from './frames.ts';
import type { ModelRunner } from './runner.ts';
import { sample } from './sample.ts';

/** How prompts are sampled. */
export interface GenerateOptions {
  /** Default: DDIM. */
  readonly sampler?: Sampler;
  /** Sampling steps. */
  readonly steps: number;
  /** Scale of the words, uncond + s · (cond − uncond); 1 is none. */
  readonly guidance: number;
  /** What to steer away from. Default: the empty prompt. */
  readonly negative?: string;
  /** Gives the first noise, and what a sampler draws on the way. */
  readonly rng: Rng;
  /** Frames of each clip. Default 1. */
  readonly frames?: number;
  /** Side of the latents. Default: what the backbone was made for. */
  readonly side?: number;
  /** Called after each sampling step with its number, from 1; throwing stops the run. */
  readonly onStep?: (done: number, of: number) => void;
}

/** Samples of prompts, not yet decoded. */
export interface Generated {
  /** [B·F, C, H, W] */
  readonly latents: F32Array;
  /** Prompts that were longer than the encoder reads, with their length in tokens, and that limit. */
  readonly truncated: readonly { readonly prompt: string; readonly length: number }[];
  readonly limit: number;
}

/** Frames of all prompts that are sampled at once where no adapter mixes them. */
const AT_ONCE = 64;

/**
 * Samples each prompt once. Its texts are all the prompt, so that adapters with a text of their own read it, too;
 * what else a port needs comes from the model's routes. Throws NO_SCHEDULE, NO_VAE or NO_TEXT_ENCODER for models that lack one,
 * MISSING_PORT for a port that is fed nothing.
 */
export async function generate(
  runner: ModelRunner,
  prompts: readonly string[],
  {
    sampler = ddimPlan,
    steps,
    guidance,
    negative = '',
    rng,
    frames: F = 1,
    side: asked,
    onStep,
  }: GenerateOptions,
): Promise<Generated> {
  const { schedule, sampleSize } = runner.model;
  if (!schedule) throw new AttuneError('NO_SCHEDULE', 'The model has no scheduler_config.json.');
  const { channels } = runner.latents;
  const side = asked ?? sampleSize?.[0] ?? 64;
  const B = prompts.length;
  const conditions = await Conditions.of(runner, [
    {
      prompt: prompts,
      instruction: prompts,
      caption: prompts,
      motion_caption: prompts,
      negative: prompts.map(() => negative),
    },
  ]);
  const { truncated, limit } = conditions;
  const plan = sampler(schedule, steps);
  const noise = rng.normals([B * F, channels, side, side]);
  // Frames that no adapter mixes are pictures beside each other.
  const mixes = runner.model.adapters.some(({ mixesFrames }) => mixesFrames);
  const most = mixes ? F : Math.max(1, Math.floor(AT_ONCE / B));
  const latents = await inPieces(noise, { clips: B, most }, async (some, start) => {
    const dims = { B, F: some.shape[0] / B, H: side, W: side, L: limit };
    return sample(runner, {
      dims,
      branches: await conditions.branches(0, { dims }, { text: {}, none: { words: true } }),
      guidance: {
        convention: 'uncond+s*delta',
        terms: [{ base: 'none', cond: 'text', scale: guidance }],
      },
      plan,
      noise: some,
      frame: start,
      rng: start === 0 ? rng.fork('fresh') : rng.fork('fresh', start),
      ...(onStep
        ? {
            onStep: (done: number, of: number) =>
              onStep((start / most) * of + done, Math.ceil(F / most) * of),
          }
        : {}),
    });
  });
  return { latents, truncated, limit };
}
