/** Objective of a diffusion model: predict v, ε or x₀ of a noised latent (Ho et al. 2020; Salimans & Ho 2022). */

import {
  add,
  AttuneError,
  f32,
  input,
  mean,
  mul,
  reshape,
  slice,
  square,
  sub,
  type Tensor,
} from '@attune/engine';
import { z } from 'zod';

import type { Latents, Model } from '../models/model.ts';
import { lift } from '../nn/rows.ts';
import type { NoiseSchedule } from '../schedule/noise.ts';
import { type Objective, rowNormals } from './objective.ts';

/** What a recipe may say under `objective: { use: denoise }`. */
export const DenoiseOptions = z.strictObject({
  net: z.string().default('unet'),
  /** Encodes `pixels` inside the step; without it the data gives `latents`. */
  encoder: z.string().optional(),
  /** Encodes prompts inside the step; without it the data gives `encoder_hidden_states`. */
  text_encoder: z.string().optional(),
  /** The data's token ids that are encoded, by the input or the port that gets the states. */
  texts: z.record(z.string(), z.string()).default({ encoder_hidden_states: 'input_ids' }),
  /** Ports that get the clean latents of each clip's first frame. */
  first_frame: z.array(z.string()).default([]),
  /** Moves the times towards the noise, where layout and motion are decided; 1 leaves them uniform. */
  shift: z.number().positive().default(1),
});
/** Those options with their defaults filled in. */
export type DenoiseOptions = z.infer<typeof DenoiseOptions>;

/**
 * Inputs: `pixels` [B·F, 3, H, W] or `latents`, token ids [B, L] as `texts` says or
 * `encoder_hidden_states`, and the other ports of the stack. Times are drawn uniformly, one per clip, and
 * shifted, t′ = s t / (1 + (s − 1) t) with t in [0, 1) (Esser et al. 2024, eq. 23); the loss is the mean squared error.
 */
export function denoise(options: DenoiseOptions, model: Model): Objective {
  const { schedule, latents: space } = model;
  if (!schedule || !space)
    throw new AttuneError(
      'BAD_CONFIG',
      'denoise: the backbone needs a scheduler/scheduler_config.json and a vae to say what its latents are.',
    );
  return {
    trace: (run, dims) => {
      const { B, F } = dims;
      const sizes = { ...dims, H: dims.H / space.factor, W: dims.W / space.factor };
      const clean = options.encoder
        ? scaledLatents(run(options.encoder).latents, space)
        : input('latents', [B * F, space.channels, sizes.H, sizes.W]);
      const perClip = (name: string) => lift(input(name, [B, 1, 1, 1]), B * F, { B, F });
      const [alpha, sigma] = [perClip('alpha'), perClip('sigma')];
      const noise = input('noise', clean.shape);
      const sample = add(mul(clean, alpha), mul(noise, sigma));
      const given: Record<string, Tensor> = { sample, timestep: input('timestep', [B]) };
      if (options.text_encoder)
        for (const [name, field] of Object.entries(options.texts)) {
          const ids = input(field, [B, dims.L ?? 1], { dtype: 'i64' });
          given[name] = run(options.text_encoder, { input_ids: ids }).last_hidden_state;
        }
      for (const port of options.first_frame) given[port] = firstFrames(clean, B);
      const predicted = run(options.net, given, sizes).sample;
      const target = targetOf(schedule, { clean, noise, alpha, sigma });
      const loss = mean(square(sub(predicted, target)));
      return { loss };
    },
    draw: (ids, rng, shapeOf) => {
      const times = ids.map((id) =>
        shifted(rng.fork('time', id).int(schedule.length), schedule.length, options.shift),
      );
      const column = (values: number[]) => f32(values, [ids.length, 1, 1, 1]);
      return {
        timestep: f32(times, [ids.length]),
        alpha: column(times.map((t) => schedule.alpha(t))),
        sigma: column(times.map((t) => schedule.sigma(t))),
        noise: rowNormals(ids, rng.fork('noise'), shapeOf('noise')),
      };
    },
  };
}

/** A time of `length`, moved towards the last one. */
const shifted = (time: number, length: number, s: number): number =>
  s === 1 ? time : Math.floor((length * s * time) / (length + (s - 1) * time));

/** The autoencoder's latents as the diffusion model knows them. */
const scaledLatents = (latents: Tensor, { scale, shift }: Latents): Tensor =>
  mul(sub(latents, shift), scale);

/** [B·F, C, H, W] → the first frame of each clip, [B, C, H, W]. */
function firstFrames(frames: Tensor, B: number): Tensor {
  const [rows, ...rest] = frames.shape;
  return reshape(slice(reshape(frames, [B, rows / B, ...rest]), 1, 0, 1), [B, ...rest]);
}

function targetOf(
  schedule: NoiseSchedule,
  { clean, noise, alpha, sigma }: Readonly<Record<'clean' | 'noise' | 'alpha' | 'sigma', Tensor>>,
): Tensor {
  switch (schedule.predictionType) {
    case 'epsilon':
      return noise;
    case 'sample':
      return clean;
    default:
      return sub(mul(noise, alpha), mul(clean, sigma));
  }
}
