/** Running a model along a schedule: guidance over several calls, a sampler's arithmetic between them. */

import { type F32Array, f32, type NDArray, type Rng } from '@attune/engine';

import { clipStrengths, strengthsAt } from '../adapters/feeds.ts';
import type { Dims } from '../models/net.ts';
import { mix } from '../schedule/forms.ts';
import { type Plan, takeStep } from '../schedule/sampler.ts';
import { fullCondition, type Guidance, guidanceBranches, guide } from './guidance.ts';
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

/** What each branch of the guidance is fed: `encoder_hidden_states` and ports. */
export type Branches = Readonly<Record<string, Readonly<Record<string, NDArray>>>>;

/** One run of a sampler. */
export interface SampleRequest {
  /** Sizes of the latents: B, F, H, W and L. */
  readonly dims: Dims;
  readonly branches: Branches;
  /** Other conditions, and their part of each frame's guided prediction, [F]; the rest is that of `branches`. */
  readonly others?: readonly { readonly branches: Branches; readonly shares: readonly number[] }[];
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

/** Predictions [F, …], all but the first weighted by the frame, the first by what is left. */
function shared(
  predictions: readonly F32Array[],
  shares: readonly (readonly number[])[],
): F32Array {
  const [first, ...others] = predictions;
  if (others.length === 0) return first;
  const data = first.data.slice();
  const frame = data.length / shares[0].length;
  others.forEach((other, k) => {
    for (let i = 0; i < data.length; i++)
      data[i] += shares[k][Math.floor(i / frame)] * (other.data[i] - first.data[i]);
  });
  return { ...first, data };
}

/** Clean latents. Each branch's clip-rate part runs once, its step-rate part once per step. */
export async function sample(
  runner: ModelRunner,
  {
    dims,
    branches,
    others = [],
    guidance,
    plan,
    noise,
    frame = 0,
    rng,
    adjust,
    onStep,
  }: SampleRequest,
): Promise<F32Array> {
  const conditions = [branches, ...others.map((other) => other.branches)];
  const names = guidanceBranches(guidance);
  const full = fullCondition(guidance);
  // One branch after the other, here and in each step: activations of a single call exist at a time.
  const lanes = [];
  for (const [of, fed] of conditions.entries())
    for (const name of names) {
      const feeds = fed[name] ?? {};
      const shapes = Object.fromEntries(
        Object.entries(feeds).map(([key, { shape }]) => [key, shape]),
      );
      const { program, standing } = runner.program({ net: 'unet', dims, shapes });
      const strengths = clipStrengths(runner.model, program, frame, name === full);
      const all = { ...standing, ...strengths, ...feeds };
      lanes.push({ of, name, program, all, clip: await program.clip(all) });
    }
  let x = mix({ cx: plan.start, cp: 0 }, noise, noise);
  let memory: F32Array | undefined;
  for (const [i, step] of plan.steps.entries()) {
    const outputs = conditions.map((): Record<string, F32Array> => ({}));
    for (const { of, name, program, all, clip } of lanes) {
      const out = await program.step(clip, {
        ...all,
        ...strengthsAt(runner.model, program, step.t, name === full),
        sample: x,
        timestep: f32([step.t], [1]),
      });
      outputs[of][name] = out.sample as F32Array;
    }
    const guided = shared(
      outputs.map((output) => guide(output, guidance, dims.F)),
      others.map(({ shares }) => shares),
    );
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
