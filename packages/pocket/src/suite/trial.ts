/** Held-out edits of clips, with all that is known about what should come out. */

import { type F32Array, Rng } from '@attune/engine';

import { TASKS, type TaskName } from '../world/catalogue.ts';
import { editMask, type Edit, sampleEdit } from '../world/edits.ts';
import { FRAMES } from '../world/motion.ts';
import { SIDE } from '../world/paint.ts';
import { type Clip, renderClip } from '../world/render.ts';

/** Scenes that no training draws: trainings' streams start at the small seeds of their recipes. */
const streams = { validation: 900_101, test: 900_201, demo: 900_401 } as const;

/** Settings are chosen on `validation`; `test` is for what is reported, once; `demo` is shown. */
export type Split = keyof typeof streams;

/** An edit of one clip: `source` goes in, `target` is what should come out, exactly. */
export interface Trial {
  readonly id: number;
  readonly edit: Edit;
  readonly source: Clip;
  readonly target: Clip;
  /** 1 where the edit changes anything, else 0; [F, H, W]. */
  readonly mask: F32Array;
}

/** Trial `id` of a split; tasks take turns. */
export function trialOf(split: Split, id: number, tasks: readonly TaskName[] = TASKS): Trial {
  const edit = sampleEdit(Rng.of(streams[split]).fork('trial', id), tasks[id % tasks.length]);
  const [source, target] = [renderClip(edit.source), renderClip(edit.target)];
  return {
    id,
    edit,
    source,
    target,
    mask: array(editMask(source, target), [FRAMES, SIDE, SIDE]),
  };
}

/** Frames of a clip as [F, 3, H, W]. */
export const framesOf = ({ frames }: Clip): F32Array => array(frames, [FRAMES, 3, SIDE, SIDE]);

/** Exact flow of a clip, [F − 1, 2, H, W] in pixels: see `Clip`. */
export const flowOf = ({ flow }: Clip): F32Array => array(flow, [FRAMES - 1, 2, SIDE, SIDE]);
/** Opacity of a clip's object, [F, H, W] in [0, 1]. */
export const masksOf = ({ masks }: Clip): F32Array => array(masks, [FRAMES, SIDE, SIDE]);

const array = (data: Float32Array, shape: readonly number[]): F32Array => ({
  dtype: 'f32',
  shape,
  data,
});
