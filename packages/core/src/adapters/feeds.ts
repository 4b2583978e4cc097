/** What a program of a composed model is fed beside its conditioning: strengths and live parameters. */

import { AttuneError, type NDArray, type Program, toF32, zeros } from '@attune/engine';

import type { Model } from '../models/model.ts';
import { trainability } from './compose.ts';
import { clipGates, stepGates } from './strength.ts';

/**
 * Strengths that hold for a whole clip. Those by frame are of the frames from number `frame` on, where a
 * program sees a part of a longer clip.
 */
export const clipStrengths = (
  { adapters }: Model,
  { inputs }: Pick<Program, 'inputs'>,
  frame = 0,
): Record<string, NDArray> =>
  Object.fromEntries(adapters.flatMap((adapter) => clipGates(adapter, inputs, frame)));

/** Strengths in a branch of the guidance: outside of its full condition those of conditional adapters are 0. */
export function inBranch(
  { adapters }: Model,
  strengths: Record<string, NDArray>,
  full: boolean,
): Record<string, NDArray> {
  if (full) return strengths;
  const silent = new Set(adapters.flatMap(({ name, conditional }) => (conditional ? [name] : [])));
  return Object.fromEntries(
    Object.entries(strengths).map(([key, value]) => {
      const [, adapter] = /^gate\.([^.@]+)/.exec(key) ?? [];
      return [key, silent.has(adapter) ? zeros(value.shape) : value];
    }),
  );
}

/** Strengths that change over the sampling steps, at time t: to be fed with every step beside `timestep`. */
export function strengthsAt(
  { adapters, schedule }: Model,
  { inputs }: Pick<Program, 'inputs'>,
  t: number,
): Record<string, NDArray> {
  const found = adapters.flatMap((adapter) =>
    stepGates(adapter, inputs, schedule?.length ?? Number.NaN, t),
  );
  if (found.length > 0 && !schedule)
    throw new AttuneError(
      'NO_SCHEDULE',
      `${found[0][0]} changes over the sampling steps, and the model has no scheduler_config.json.`,
    );
  return Object.fromEntries(found);
}

/** Feeds of a program beside its conditioning: strengths that hold for a clip, and live parameters. */
export function standingFeeds(model: Model, program: Program): Record<string, NDArray> {
  const feeds = clipStrengths(model, program);
  for (const [name, t] of program.inputs)
    if (t.op.name === 'param') feeds[name] = toF32(model.weights.entry(name).load());
  return feeds;
}

/** Names of the live parameters of a program that train. */
export function trainableInputs(model: Model, program: Program): string[] {
  const trains = trainability(model);
  return [...program.inputs]
    .filter(([name, t]) => t.op.name === 'param' && trains(name))
    .map(([name]) => name);
}
