/** Captioned frames of the training world, for the backbone. */

import type { DataSource, Model } from '@attune/core';
import { AttuneError, i64, type Rng } from '@attune/engine';
import { z } from 'zod';

import { FRAMES } from '../world/motion.ts';
import { AREA, SIDE } from '../world/paint.ts';
import { renderFrame } from '../world/render.ts';
import { sampleScene } from '../world/scene.ts';
import { imageCaption } from '../world/words.ts';

export const CaptionedOptions = z.strictObject({
  /** Share of samples whose caption is empty, for classifier-free guidance. */
  drop: z.number().min(0).max(1).default(0.1),
});

/** `pixels` [N, 3, 64, 64] in [-1, 1] and `input_ids` [N, L]: one random frame per id, captioned without motion words. */
export function captioned(
  { drop }: z.infer<typeof CaptionedOptions>,
  { tokenizer }: Model,
): DataSource {
  if (!tokenizer)
    throw new AttuneError('BAD_CONFIG', 'pocket/captioned: the backbone has no tokenizer folder.');
  const length = tokenizer.maxLength;
  return {
    dims: { F: 1, H: SIDE, W: SIDE, L: length },
    batch: (ids, rng) => {
      const data = new Float32Array(ids.length * 3 * AREA);
      const tokens = ids.flatMap((id, k) => {
        const { pixels, caption } = sample(rng.fork(id), drop);
        for (let i = 0; i < pixels.length; i++) data[k * 3 * AREA + i] = 2 * pixels[i] - 1;
        return tokenizer.encode(caption).ids;
      });
      return {
        pixels: { dtype: 'f32', shape: [ids.length, 3, SIDE, SIDE], data },
        input_ids: i64(tokens, [ids.length, length]),
      };
    },
  };
}

function sample(rng: Rng, drop: number): { pixels: Float32Array; caption: string } {
  const scene = sampleScene(rng);
  const { pixels } = renderFrame(scene, rng.int(FRAMES));
  return { pixels, caption: rng.uniform() < drop ? '' : imageCaption(scene, rng) };
}
