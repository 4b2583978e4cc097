/** The training recipe: a stack, what it learns from, and how. */

import { z } from 'zod';

import { StackFile } from '../stack/schema.ts';
import { CheckpointPlan } from './drive.ts';
import { TrainConfig, Use } from './run.ts';

export const Samples = z.strictObject({
  /** Steps between two of them; one before the first step and one after the last, too. */
  every: z.int().positive(),
  prompts: z.array(z.string()).min(1),
  steps: z.int().positive().default(20),
  guidance: z.number().default(3),
  seed: z.int().nonnegative().default(0),
});
export type Samples = z.infer<typeof Samples>;

/** A training recipe, parsed. Unknown keys are errors. */
export const TrainRecipe = z.strictObject({
  /** What trains is marked in the stack: `train` of the backbone or of an adapter. */
  stack: StackFile,
  /** Parameters that start anew, whether the stack's weights have them or lack them (patterns over names). */
  fresh: z.array(z.string()).default([]),
  objective: Use,
  data: Use,
  train: TrainConfig,
  /** Pictures or clips of the averaged weights, beside the log: what a loss does not show. */
  samples: Samples.optional(),
  checkpoint: CheckpointPlan.prefault({}),
  /** How the trained weights are stored at the end; they train as f32. */
  save: z.enum(['f32', 'f16']).default('f32'),
  /** Steps per line of the log. */
  log_every: z.int().positive().default(10),
});
/** A checked recipe with its defaults filled in. */
export type TrainRecipe = z.infer<typeof TrainRecipe>;
