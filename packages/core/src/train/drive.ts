/** Drives an iterative run in a folder: lock, resume, log, checkpoints, the result at the end. */

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';

import { AttuneError } from '@attune/engine';
import { z } from 'zod';

import {
  type Checkpoint,
  latestCheckpoint,
  loadCheckpoint,
  pruneCheckpoints,
  saveCheckpoint,
} from './checkpoint.ts';
import { RunFolder } from './folder.ts';

/** How often a run writes checkpoints, and how many it keeps. */
export const CheckpointPlan = z.strictObject({
  every: z.int().positive().default(100),
  keep: z.int().positive().default(2),
});

/** What the caller of a run chooses. */
export interface RunRequest<Report> {
  /** The run's folder. */
  readonly run: string;
  readonly resume?: boolean;
  /** Stops after the step in which it fires; a checkpoint is written first. */
  readonly signal?: AbortSignal;
  /** Called after each step, before its checkpoint is written. */
  readonly onStep?: (report: Report) => void;
}

export interface Driven<State, Report> extends RunRequest<Report> {
  /** The resolved recipe, as text: a resumed run must have the same. */
  readonly recipe: string;
  readonly checkpoint: z.infer<typeof CheckpointPlan>;
  /** Steps of a complete run. */
  readonly total: number;
  readonly seed: number;
  iterate(from: State | undefined): AsyncIterable<{ state: State; report: Report }>;
  pack(state: State): Checkpoint;
  unpack(checkpoint: Checkpoint): State;
  /** The line of the log for a step; undefined writes none. */
  line(report: Report): Readonly<Record<string, unknown>> | undefined;
  /** Writes the result of a complete run into a folder, with metadata for its files. */
  finish(
    state: State,
    folder: string,
    metadata: Readonly<Record<string, string>>,
  ): void | Promise<void>;
}

/** How a run ended: whole, or at a signal. `path` is the run's folder. */
export interface Outcome<State> {
  readonly state: State;
  readonly complete: boolean;
  readonly path: string;
}

/** Runs to the end or until the signal. A complete run's result stands in `best/`. */
export async function drive<State extends { readonly step: number }, Report>(
  plan: Driven<State, Report>,
): Promise<Outcome<State>> {
  const { run, recipe, resume = false, signal, total } = plan;
  const place = RunFolder.open(run, recipe, { resume });
  let begun = false;
  try {
    const newest = resume ? latestCheckpoint(place.checkpoints) : undefined;
    const from = newest ? plan.unpack(loadCheckpoint(newest)) : undefined;
    place.rewindLog(from?.step ?? 0);
    let state = from;
    let saved = from?.step;
    const save = (now: State): void => {
      saveCheckpoint(place.checkpoints, plan.pack(now));
      pruneCheckpoints(place.checkpoints, plan.checkpoint.keep);
      saved = now.step;
    };
    for await (const turn of plan.iterate(from)) {
      ({ state } = turn);
      begun = true;
      const line = plan.line(turn.report);
      if (line) place.log(line);
      plan.onStep?.(turn.report);
      if (state.step % plan.checkpoint.every === 0 || signal?.aborted) save(state);
      if (signal?.aborted) break;
    }
    if (!state) throw new AttuneError('INTERNAL', 'internal: a run without a step.');
    const end = state;
    if (saved !== end.step) save(end);
    const complete = end.step >= total;
    if (complete)
      await place.replace('best', (folder) =>
        plan.finish(end, folder, {
          'attune.recipe': sha256(recipe),
          'attune.log': sha256(readFileSync(place.logFile, 'utf8')),
          'attune.seed': String(plan.seed),
          'attune.step': String(end.step),
        }),
      );
    return { state: end, complete, path: place.path };
  } finally {
    if (begun) place.close();
    else place.discard();
  }
}

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');
