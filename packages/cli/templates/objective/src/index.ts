/** __id__: an autoencoder held to the absolute error of its pixels. Replace `loss` by your own. */

import { definePlugin, type Objective, objectiveKind } from '@attune/core';
import { abs, input, mean, mul, square, sub } from '@attune/engine';
import { z } from 'zod';

export const id = '__id__';

/** What a recipe may say under `objective` beside `use`. */
export const Options = z.strictObject({
  /** The nets of the backbone that encode and decode. */
  encoder: z.string().default('vae_encoder'),
  decoder: z.string().default('vae_decoder'),
  /** Factor of the loss. */
  weight: z.number().positive().default(1),
});
export type Options = z.infer<typeof Options>;

/** Input: `pixels` [B·F, 3, H, W]. The loss is a scalar; `metrics` go into the log beside it. */
export const objective = ({ encoder, decoder, weight }: Options): Objective => ({
  trace: (run, { B, F, H, W }) => {
    const pixels = input('pixels', [B * F, 3, H, W]);
    const { latents } = run(encoder, { pixels });
    const sizes = { B, F, H: latents.dim(2), W: latents.dim(3) };
    const error = sub(run(decoder, { latents }, sizes).pixels, pixels);
    return { loss: mul(mean(abs(error)), weight), metrics: { mse: mean(square(error)) } };
  },
});

export const kind = objectiveKind({ options: Options, create: objective });

export default definePlugin({ api: 1, contributes: { objectives: { [id]: kind } } });
