/** Edits: a scene, its exact edited twin, and the words that lead from one to the other. */

import { type Rng } from '@attune/engine';

import {
  BACKGROUNDS,
  GLOBALS,
  HATS,
  OBJECTS,
  PAINTS,
  STYLES,
  type TaskName,
  TEXTURES,
} from './catalogue.ts';
import { FRAMES } from './motion.ts';
import { AREA } from './paint.ts';
import { type Clip } from './render.ts';
import { BRIGHT, edited, type Fixed, sampleScene, type Scene } from './scene.ts';
import { clipCaption, imageCaption, instruct } from './words.ts';

/** One example of an editing task; `renderClip(target)` is the exact twin of `renderClip(source)`. */
export interface Edit {
  readonly task: TaskName;
  readonly source: Scene;
  readonly target: Scene;
  readonly instruction: string;
  /** Of the target, without words of motion. */
  readonly caption: string;
  /** Of the target, with words of motion. */
  readonly motionCaption: string;
  /** Of the source, without words of motion. */
  readonly sourceCaption: string;
  /** Of the source, with words of motion. */
  readonly sourceMotionCaption: string;
}

/** What each task asks of its source, and how it changes it. */
const TASK_RULES: {
  readonly [name in TaskName]: {
    readonly from: (rng: Rng) => Fixed;
    readonly change: (source: Scene, rng: Rng) => Fixed;
  };
} = {
  add: {
    from: () => ({ hat: undefined }),
    change: (_, rng) => ({ hat: rng.pick(HATS) }),
  },
  remove: {
    from: (rng) => ({ hat: rng.pick(HATS) }),
    change: () => ({ hat: undefined }),
  },
  background: {
    from: () => ({}),
    change: ({ background, global: look }, rng) => {
      const places = look === 'night' ? BRIGHT : BACKGROUNDS;
      return { background: other(rng, places, background) };
    },
  },
  texture: {
    from: (rng) => ({
      texture: rng.uniform() < 0.2 ? rng.pick(TEXTURES) : undefined,
      global: undefined,
    }),
    change: ({ texture }, rng) => ({ texture: other(rng, TEXTURES, texture) }),
  },
  local: {
    from: () => ({}),
    change: ({ object }, rng) => ({ object: other(rng, OBJECTS, object) }),
  },
  style: {
    from: () => ({ style: undefined, global: undefined }),
    change: (_, rng) => ({ style: rng.pick(STYLES) }),
  },
  global: {
    from: () => ({ style: undefined, global: undefined }),
    change: ({ background }, rng) => {
      const looks = BRIGHT.includes(background) ? GLOBALS : GLOBALS.filter((it) => it !== 'night');
      return { global: rng.pick(looks) };
    },
  },
  segment: {
    from: () => ({ style: undefined }),
    change: (_, rng) => ({ drawing: rng.pick(PAINTS) }),
  },
  sketch: {
    from: () => ({ style: undefined, global: undefined }),
    change: () => ({ drawing: 'sketch' }),
  },
};

/** Draws one of the items that is not `not`. */
const other = <T>(rng: Rng, items: readonly T[], not: T | undefined): T =>
  rng.pick(items.filter((item) => item !== not));

/**
 * A random example of a task; `rng` advances by one draw.
 *
 * @param fixed fields of the source to hold; those that the task itself needs win over them
 */
export function sampleEdit(rng: Rng, task: TaskName, fixed: Fixed = {}): Edit {
  const draw = rng.fork('edit', task, rng.int(2 ** 32));
  const { from, change } = TASK_RULES[task];
  const source = sampleScene(draw, { ...fixed, ...from(draw) });
  const target = edited(source, change(source, draw));
  const words = draw.fork('words');
  return {
    task,
    source,
    target,
    instruction: instruct(task, source, target, words),
    caption: imageCaption(target, words),
    motionCaption: clipCaption(target, words),
    sourceCaption: imageCaption(source, words),
    sourceMotionCaption: clipCaption(source, words),
  };
}

/**
 * Where an edit changes anything, [FRAMES, SIDE, SIDE]: 1 where the twins differ by more than
 * `tolerance` in some colour, 0 elsewhere.
 */
export function editMask(source: Clip, target: Clip, tolerance = 1 / 64): Float32Array {
  const mask = new Float32Array(FRAMES * AREA);
  for (let f = 0; f < FRAMES; f++)
    for (let c = 0; c < 3; c++) {
      const at = (f * 3 + c) * AREA;
      for (let i = 0; i < AREA; i++)
        if (Math.abs(source.frames[at + i] - target.frames[at + i]) > tolerance)
          mask[f * AREA + i] = 1;
    }
  return mask;
}
