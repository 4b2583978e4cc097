/** What a program of a composed model is fed beside its conditioning: strengths and live parameters. */

import { AttuneError, type NDArray, type Program, toF32, zeros } from '@attune/engine';

import type { Model } from '../models/model.ts';
import type { Adapter } from './adapter.ts';
import { trainability } from './compose.ts';
import { clipGates, stepGates } from './strength.ts';

/**
 * Strengths that hold for a whole clip. Those by frame are of the frames from number `frame` on, where a
 * program sees a part of a longer clip. Outside of the guidance's full condition conditional adapters have none.
 */
export const clipStrengths = (
  { adapters }: Model,
  { inputs }: Pick<Program, 'inputs'>,
  frame = 0,
  full = true,
): Record<string, NDArray> =>
  Object.fromEntries(
    adapters.flatMap((adapter) => inBranch(adapter, full, clipGates(adapter, inputs, frame))),
  );

/** Strengths that change over the sampling steps, at time t: to be fed with every step beside `timestep`. */
export function strengthsAt(
  { adapters, schedule }: Model,
  { inputs }: Pick<Program, 'inputs'>,
  t: number,
  full = true,
): Record<string, NDArray> {
  const found = adapters.flatMap((adapter) =>
    inBranch(adapter, full, stepGates(adapter, inputs, schedule?.length ?? Number.NaN, t)),
  );
  if (found.length > 0 && !schedule)
    throw new AttuneError(
      'NO_SCHEDULE',
      `${found[0][0]} changes over the sampling steps, and the model has no scheduler_config.json.`,
    );
  return Object.fromEntries(found);
}

type Gates = readonly (readonly [string, NDArray])[];

const inBranch = ({ conditional }: Adapter, full: boolean, gates: Gates): Gates =>
  full || !conditional ? gates : gates.map(([name, { shape }]) => [name, zeros(shape)]);

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
