/** Training objectives: what a step's graph computes from a model's nets. */

import type { Tensor } from '@attune/engine';

import type { NetRunner } from '../adapters/compose.ts';
import type { Dims } from '../models/net.ts';

export interface Objective {
  /** The loss (a scalar) and figures for the log, traced into one graph with its gradient. */
  trace(run: NetRunner, dims: Dims): { loss: Tensor; metrics?: Readonly<Record<string, Tensor>> };
}
