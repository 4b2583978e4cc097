/** Clips with instructions and captions, and what they should become: for editing and alignment. */

import type { DataSource, Model } from '@attune/core';
import { i64, type NDArray, type Rng } from '@attune/engine';
import { z } from 'zod';

import { TASKS } from '../world/catalogue.ts';
import { type Edit, sampleEdit } from '../world/edits.ts';
import { FRAMES } from '../world/motion.ts';
import { AREA, SIDE } from '../world/paint.ts';
import { renderClip, renderFrame } from '../world/render.ts';

export const EditsOptions = z.strictObject({
  /** Whole clips, or one random frame each. */
  frames: z.enum(['clip', 'one']).default('clip'),
  /** Number of distinct samples; absent: endless. */
  length: z.int().positive().optional(),
  /** Share of samples without any words, and share without a source image: for guidance. */
  drop: z.number().min(0).max(1).default(0),
  /** Share of the others that have an instruction but no caption, as most people ask for edits. */
  bare: z.number().min(0).max(1).default(0),
});

/**
 * Fields: `source` [N·F, 3, 64, 64] in [0, 1], `pixels` (the exact edited twin) in [-1, 1], `task` [N],
 * the same as `edit.image` and `edit.task`, prompts as `input_ids` and `instruction_ids` [N, L].
 * Prompts as words: `caption`, `motion_caption`, `instruction`, and of the source `source_caption`,
 * `source_motion_caption`.
 */
export function edits(options: z.infer<typeof EditsOptions>, { tokenizer }: Model): DataSource {
  const { frames, length, drop, bare } = options;
  const F = frames === 'clip' ? FRAMES : 1;
  const L = tokenizer?.maxLength ?? 1;
  const draw = (id: number, rng: Rng) => one(rng.fork(id), F, { drop, bare });
  return {
    dims: { F, H: SIDE, W: SIDE, L },
    ...(length === undefined ? {} : { length }),
    batch: (ids, rng) => {
      const size = F * 3 * AREA;
      const source = new Float32Array(ids.length * size);
      const pixels = new Float32Array(ids.length * size);
      const samples = ids.map((id) => draw(id, rng));
      samples.forEach((sample, k) => {
        const { before, after } = sample.render();
        source.set(before, k * size);
        for (let i = 0; i < size; i++) pixels[k * size + i] = 2 * after[i] - 1;
      });
      const shape = [ids.length * F, 3, SIDE, SIDE];
      const tasks = i64(
        samples.map(({ edit }) => (TASKS as readonly string[]).indexOf(edit.task)),
        [ids.length],
      );
      const tokens = (of: (words: Words) => string): NDArray =>
        i64(
          samples.flatMap(({ words }) => tokenizer?.encode(of(words)).ids ?? [0]),
          [ids.length, L],
        );
      const image: NDArray = { dtype: 'f32', shape, data: source };
      return {
        source: image,
        'edit.image': image,
        pixels: { dtype: 'f32', shape, data: pixels },
        task: tasks,
        'edit.task': tasks,
        input_ids: tokens(({ caption }) => caption),
        instruction_ids: tokens(({ instruction }) => instruction),
      };
    },
    prompts: (ids, rng) => {
      const words = ids.map((id) => draw(id, rng).words);
      return {
        caption: words.map((w) => w.caption),
        motion_caption: words.map((w) => w.motionCaption),
        instruction: words.map((w) => w.instruction),
        source_caption: words.map((w) => w.sourceCaption),
        source_motion_caption: words.map((w) => w.sourceMotionCaption),
      };
    },
  };
}

interface Words {
  readonly caption: string;
  readonly motionCaption: string;
  readonly instruction: string;
  readonly sourceCaption: string;
  readonly sourceMotionCaption: string;
}

interface Sample {
  readonly edit: Edit;
  readonly words: Words;
  /** Frames of the source and of its edited twin, [F, 3, 64, 64] in [0, 1]. */
  render(): { before: Float32Array; after: Float32Array };
}

/** One sample, whole: what is drawn for its words does not depend on whether its pixels are. */
function one(
  rng: Rng,
  frames: number,
  { drop, bare }: { readonly drop: number; readonly bare: number },
): Sample {
  const edit = sampleEdit(rng, rng.pick(TASKS));
  const frame = rng.int(FRAMES);
  const [noWords, noCaption, noImage] = [drop, bare, drop].map((share) => rng.uniform() < share);
  const pixels = (scene: Edit['source']): Float32Array =>
    frames === 1 ? renderFrame(scene, frame).pixels : renderClip(scene).frames;
  return {
    edit,
    words: {
      caption: noWords || noCaption ? '' : edit.caption,
      motionCaption: noWords || noCaption ? '' : edit.motionCaption,
      instruction: noWords ? '' : edit.instruction,
      sourceCaption: noWords || noCaption ? '' : edit.sourceCaption,
      sourceMotionCaption: noWords || noCaption ? '' : edit.sourceMotionCaption,
    },
    render: () => ({
      before: noImage ? new Float32Array(frames * 3 * AREA) : pixels(edit.source),
      after: pixels(edit.target),
    }),
  };
}
