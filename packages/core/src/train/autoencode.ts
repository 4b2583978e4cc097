/** Objective of an autoencoder: reconstruction, image gradients, light noise on the latents. */

import { abs, add, input, mean, mul, slice, square, sub, type Tensor } from '@attune/engine';
import { z } from 'zod';

import { type Objective, rowNormals } from './objective.ts';

/** What a recipe may say under `objective: { use: autoencode }`. */
export const AutoencodeOptions = z.strictObject({
  encoder: z.string().default('vae_encoder'),
  decoder: z.string().default('vae_decoder'),
  /** Weight of the mean absolute error of horizontal and vertical differences. */
  gradient: z.number().nonnegative().default(1),
  /** Weight of the mean absolute error beside the squared one. */
  absolute: z.number().nonnegative().default(0.1),
  /** Standard deviation of the noise added to the latents (input `noise`). */
  noise: z.number().nonnegative().default(0.02),
  /** Weight of the squared latents, which keeps them near unit scale. */
  latent: z.number().nonnegative().default(1e-4),
  /** The pixels' range is [-1, 1] (KL autoencoders) or [0, 1] (tiny ones). */
  range: z.enum(['signed', 'unit']).default('signed'),
});
/** Those options with their defaults filled in. */
export type AutoencodeOptions = z.infer<typeof AutoencodeOptions>;

/** Input: `pixels` [N, 3, H, W]. */
export function autoencode(options: AutoencodeOptions): Objective {
  return {
    trace: (run, { B, F, H, W }) => {
      const pixels = input('pixels', [B * F, 3, H, W]);
      const { latents } = run(options.encoder, { pixels });
      const noise = input('noise', latents.shape);
      const noisy = add(latents, mul(noise, options.noise));
      const decoded = run(options.decoder, { latents: noisy }, latentDims(B, F, latents)).pixels;
      const error = sub(decoded, pixels);
      const mse = mean(square(error));
      const edges = mul(
        add(mean(abs(difference(error, 2))), mean(abs(difference(error, 3)))),
        0.5 * options.gradient,
      );
      const l1 = mul(mean(abs(error)), options.absolute);
      const power = mean(square(latents));
      const loss = add(add(mse, edges), add(l1, mul(power, options.latent)));
      return { loss, metrics: { mse, edges, latent_power: power } };
    },
    draw: (ids, rng, shapeOf) => ({ noise: rowNormals(ids, rng.fork('noise'), shapeOf('noise')) }),
  };
}

const latentDims = (B: number, F: number, latents: Tensor) => ({
  B,
  F,
  H: latents.dim(2),
  W: latents.dim(3),
});

/** x[i + 1] − x[i] along one axis. */
const difference = (x: Tensor, axis: number): Tensor =>
  sub(slice(x, axis, 1), slice(x, axis, 0, -1));
