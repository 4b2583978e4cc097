/** Objective of a diffusion model: predict v, ε or x₀ of a noised latent (Ho et al. 2020; Salimans & Ho 2022). */

import { input, mean, mul, reshape, square, sub, type Tensor } from '@attune/engine';
import { z } from 'zod';

import type { Objective } from './objective.ts';

export const DenoiseOptions = z.strictObject({
  net: z.string().default('unet'),
  /** Encode prompts inside the step, so that the text encoder can train with it. */
  text_encoder: z.string().optional(),
});
export type DenoiseOptions = z.infer<typeof DenoiseOptions>;

/**
 * Inputs: `sample` (the noised latents), `timestep`, `target` shaped like the sample, `weight`
 * [rows], and `encoder_hidden_states` or `input_ids`. Rows are weighted and averaged.
 */
export function denoise({ net, text_encoder: encoder }: DenoiseOptions): Objective {
  return {
    trace: (run) => {
      const text: Record<string, Tensor> = encoder
        ? { encoder_hidden_states: run(encoder).last_hidden_state }
        : {};
      const { sample } = run(net, text);
      const rows = sample.dim(0);
      const target = input('target', sample.shape);
      const weight = input('weight', [rows]);
      const per = mean(reshape(square(sub(sample, target)), [rows, -1]), [1]);
      return { loss: mean(mul(per, weight)), metrics: { mse: mean(per) } };
    },
  };
}
