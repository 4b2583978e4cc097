/** Training data: a pure function from sample ids to arrays. */

import type { NDArray, Rng } from '@attune/engine';

import type { Dims } from '../models/net.ts';

/**
 * Where samples come from. It keeps no place: sample n is the same whenever and beside whatever it is asked
 * for, so that a resumed run goes on exactly.
 */
export interface DataSource {
  /** Sizes of one sample that an objective needs: H, W, F, L, classes, … */
  readonly dims: Dims;
  /** Number of distinct samples; undefined for an endless source. */
  readonly length?: number;
  /**
   * The samples with these ids, stacked along the leading axis, by input name. Equal ids and streams
   * give equal bytes; `rng` is the run's data stream (fork it by id).
   */
  batch(
    ids: readonly number[],
    rng: Rng,
  ): Readonly<Record<string, NDArray>> | Promise<Readonly<Record<string, NDArray>>>;
  /** Prompts of these samples by field, where the source has words: one per id. */
  prompts?(ids: readonly number[], rng: Rng): Readonly<Record<string, readonly string[]>>;
}
