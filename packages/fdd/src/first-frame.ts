/** First frames that a teacher edits: what a video adapter is conditioned on (arXiv 2403.09334, section 3.2). */

import type { ModelRunner, Rows } from '@attune/core';
import type { F32Array, Rng, Shape } from '@attune/engine';

import type { FirstFrameConfig, TeacherConfig } from './config.ts';
import { ModelTeacher } from './model-teacher.ts';
import type { Pool } from './pool.ts';
import { type DataBatch, firstRows } from './view.ts';

export interface FirstFrameOptions {
  /** Clips and frames of a batch. */
  readonly rows: Rows;
  /** Of one frame's latents, [C, H, W], and the tokens of a prompt. */
  readonly shape: Shape;
  readonly tokens: number;
  readonly pool: Pool;
  readonly rng: Rng;
}

/** The field `first_frame` [B, C, H, W] of a batch: made once for each group of data, then kept. */
export class FirstFrames {
  readonly #teacher: ModelTeacher;
  readonly #options: FirstFrameOptions;

  constructor(
    runner: ModelRunner,
    teacher: TeacherConfig,
    { teacher: id, steps, guidance }: FirstFrameConfig,
    options: FirstFrameOptions,
  ) {
    const [, H, W] = options.shape;
    const sampling = { steps, guidance: guidance ?? teacher.guidance.scale };
    const dims = { B: options.rows.B, F: 1, H, W, L: options.tokens };
    this.#teacher = new ModelTeacher(id, runner, { ...teacher, sampling }, dims);
    this.#options = options;
  }

  of(batch: DataBatch, ids: readonly number[]): Promise<F32Array> {
    const { rows, shape, pool, rng } = this.#options;
    const key = ids.join('-');
    return pool.get(key, () => {
      const draw = rng.fork('first frame', key);
      const noise = draw.fork('noise').normals([rows.B, ...shape]);
      return this.#teacher.draw(firstOnly(batch, rows), noise, draw);
    });
  }

  release(): Promise<void> {
    return this.#teacher.release();
  }
}

/** The batch with one frame a clip: of what has a row for every frame, each clip's first. */
const firstOnly = ({ text, arrays }: DataBatch, rows: Rows): DataBatch => ({
  text,
  arrays: Object.fromEntries(
    Object.entries(arrays).map(([name, array]) => [name, firstRows(array, rows)]),
  ),
});
