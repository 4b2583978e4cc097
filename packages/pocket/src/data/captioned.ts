/** Captioned frames and clips of the world, for the backbone, the video adapter and LoRAs. */

import type { DataSource, Model } from '@attune/core';
import { AttuneError, i64, type Rng } from '@attune/engine';
import { z } from 'zod';

import { HELD_OUT_OBJECTS, HELD_OUT_STYLES, MOTIONS, OBJECTS, STYLES } from '../world/catalogue.ts';
import { FRAMES } from '../world/motion.ts';
import { AREA, SIDE } from '../world/paint.ts';
import { renderClip, renderFrame } from '../world/render.ts';
import { type Fixed, sampleScene } from '../world/scene.ts';
import { clipCaption, imageCaption } from '../world/words.ts';

export const CaptionedOptions = z.strictObject({
  /** One random frame each, captioned without motion words, or whole clips, captioned with them. */
  frames: z.enum(['one', 'clip']).default('one'),
  /** Share of samples whose caption is empty, for classifier-free guidance. */
  drop: z.number().min(0).max(1).default(0.1),
  /** What every sample shows, held-out things included: for LoRAs of a subject or a style. */
  object: z.enum([...OBJECTS, ...HELD_OUT_OBJECTS]).optional(),
  style: z.enum([...STYLES, ...HELD_OUT_STYLES]).optional(),
  /** The motions to draw from, each as often as it is named; without them all are equally likely. */
  motions: z.array(z.enum(MOTIONS)).min(1).optional(),
});
export type CaptionedOptions = z.infer<typeof CaptionedOptions>;

/** `pixels` [N·F, 3, 64, 64] in [-1, 1] and `input_ids` [N, L]. */
export function captioned(options: CaptionedOptions, { tokenizer }: Model): DataSource {
  if (!tokenizer)
    throw new AttuneError('BAD_CONFIG', 'pocket/captioned: the backbone has no tokenizer folder.');
  const L = tokenizer.maxLength;
  const F = options.frames === 'clip' ? FRAMES : 1;
  return {
    dims: { F, H: SIDE, W: SIDE, L },
    batch: (ids, rng) => {
      const size = F * 3 * AREA;
      const data = new Float32Array(ids.length * size);
      const tokens = ids.flatMap((id, k) => {
        const { pixels, caption } = one(rng.fork(id), options);
        for (let i = 0; i < size; i++) data[k * size + i] = 2 * pixels[i] - 1;
        return tokenizer.encode(caption).ids;
      });
      return {
        pixels: { dtype: 'f32', shape: [ids.length * F, 3, SIDE, SIDE], data },
        input_ids: i64(tokens, [ids.length, L]),
      };
    },
  };
}

function one(
  rng: Rng,
  { frames, drop, object, style, motions }: CaptionedOptions,
): { pixels: Float32Array; caption: string } {
  const fixed: Fixed = {
    ...(object ? { object } : {}),
    ...(style ? { style, global: undefined } : {}),
    ...(motions ? { motion: rng.fork('motion').pick(motions) } : {}),
  };
  const scene = sampleScene(rng, fixed);
  const clip = frames === 'clip';
  const pixels = clip ? renderClip(scene).frames : renderFrame(scene, rng.int(FRAMES)).pixels;
  const dropped = rng.uniform() < drop;
  const caption = clip ? clipCaption(scene, rng) : imageCaption(scene, rng);
  return { pixels, caption: dropped ? '' : caption };
}
