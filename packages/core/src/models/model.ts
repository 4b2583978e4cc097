/** A model: named nets over one set of weights, and the adapters stacked on it. */

import type { Weights } from '@attune/engine';

import type { Adapter } from '../adapters/adapter.ts';
import type { Routes } from '../adapters/routes.ts';
import type { NoiseSchedule } from '../schedule/noise.ts';
import type { Net } from './net.ts';
import type { Tokenizer } from './tokenizer.ts';

/**
 * A plain value: `compose` makes another one of it, nothing is changed in place. `loadModel` reads one from
 * a folder or a file, `openStack` from a stack file.
 */
export interface Model {
  readonly nets: Readonly<Record<string, Net>>;
  /** Parameters of the nets by full name, and of the adapters under their names. */
  readonly weights: Weights;
  /** The config of each part (`unet`, `vae`, …), as its config.json has or would have it. */
  readonly configs?: Readonly<Record<string, unknown>>;
  /** In order of application. */
  readonly adapters: readonly Adapter[];
  /** What `generate` and `editFrames` feed its inputs and ports, where it is not what a port says itself. */
  readonly routes?: Routes;
  /** Which of the nets' own parameters train (patterns over names); none by default. */
  readonly train?: readonly string[];
  /** The noise it was trained with, and what its prediction stands for. */
  readonly schedule?: NoiseSchedule;
  readonly tokenizer?: Tokenizer;
  readonly latents?: Latents;
  /** Height and width of the latents it was made for. */
  readonly sampleSize?: readonly [number, number];
}

/** How the autoencoder's latents and the diffusion model's relate. */
export interface Latents {
  readonly channels: number;
  /** Pixels per latent, on a side. */
  readonly factor: number;
  /** The diffusion model's latents are (latents − shift) · scale. */
  readonly scale: number;
  readonly shift: number;
}
