/** Running a model along a schedule: guidance over several calls, a sampler's arithmetic between them. */

import { type F32Array, f32, type NDArray, type Rng } from '@attune/engine';

import { clipStrengths, strengthsAt } from '../adapters/compose.ts';
import type { Dims } from '../models/net.ts';
import { mix } from '../schedule/forms.ts';
import { type Plan, takeStep } from '../schedule/sampler.ts';
import { type Guidance, guidanceBranches, guide } from './guidance.ts';
import type { ModelRunner } from './runner.ts';

/** A change to the guided prediction before the sampler's step; `done` steps of `of` lie behind. */
export type Adjust = (
  prediction: F32Array,
  at: {
    readonly x: F32Array;
    readonly t: number;
    readonly done: number;
    readonly of: number;
  },
) => F32Array;

export interface SampleRequest {
  /** Sizes of the latents: B, F, H, W and L. */
  readonly dims: Dims;
  /** What each branch of the guidance is fed: `encoder_hidden_states` and ports. */
  readonly branches: Readonly<Record<string, Readonly<Record<string, NDArray>>>>;
  readonly guidance: Guidance;
  readonly plan: Plan;
  /** Unit noise [B·F, C, H, W]. */
  readonly noise: F32Array;
  /** Number of the first frame in its clip, for strengths by frame. Default 0. */
  readonly frame?: number;
  /** For samplers that draw fresh noise. */
  readonly rng?: Rng;
  readonly adjust?: Adjust;
  /** Called after each step with its number, from 1; throwing stops the run. */
  readonly onStep?: (done: number, of: number) => void;
}

/** Clean latents. Each branch's clip-rate part runs once, its step-rate part once per step. */
export async function sample(
  runner: ModelRunner,
  { dims, branches, guidance, plan, noise, frame = 0, rng, adjust, onStep }: SampleRequest,
): Promise<F32Array> {
  const lanes = await Promise.all(
    guidanceBranches(guidance).map(async (name) => {
      const feeds = branches[name] ?? {};
      const shapes = Object.fromEntries(
        Object.entries(feeds).map(([key, { shape }]) => [key, shape]),
      );
      const { program, standing } = runner.program({ net: 'unet', dims, shapes });
      const all = { ...standing, ...clipStrengths(runner.model, program, frame), ...feeds };
      return { name, program, all, clip: await program.clip(all) };
    }),
  );
  let x = mix({ cx: plan.start, cp: 0 }, noise, noise);
  let memory: F32Array | undefined;
  for (const [i, step] of plan.steps.entries()) {
    const outputs: Record<string, F32Array> = {};
    // One branch after the other: activations of a single call exist at a time.
    for (const { name, program, all, clip } of lanes) {
      const out = await program.step(clip, {
        ...all,
        ...strengthsAt(runner.model, program, step.t),
        sample: x,
        timestep: f32([step.t], [1]),
      });
      outputs[name] = out.sample as F32Array;
    }
    const guided = guide(outputs, guidance, dims.F);
    const prediction = adjust?.(guided, { x, t: step.t, done: i, of: plan.steps.length }) ?? guided;
    ({ x, memory } = takeStep(step, x, prediction, {
      memory,
      ...(rng ? { rng: rng.fork(i) } : {}),
    }) as {
      x: F32Array;
      memory: F32Array | undefined;
    });
    onStep?.(i + 1, plan.steps.length);
  }
  return x;
}
