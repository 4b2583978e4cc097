/** A model folder in diffusers' layout as a Model. */

import { existsSync } from 'node:fs';
import { join } from 'node:path';

import { AttuneError, Weights } from '@attune/engine';

import { NoiseSchedule } from '../schedule/noise.ts';
import { clipText } from './clip.ts';
import { ClipTextConfig, TinyVaeConfig, UNetConfig } from './config.ts';
import { parseConfig, type Part, readJson, readPart } from './folder.ts';
import type { Model } from './model.ts';
import { tinyDecoder, tinyEncoder } from './tiny-vae.ts';
import { Tokenizer } from './tokenizer.ts';
import { unet } from './unet.ts';

/** What one part adds to a model. */
type Loaded = Pick<Model, 'nets' | 'latents'>;

/** The parts this project knows, by the library's class name. */
const families: Readonly<Record<string, (part: Part) => Loaded>> = {
  UNet2DConditionModel: ({ config, folder }) => ({
    nets: { unet: unet(parseConfig(UNetConfig, config, folder)) },
  }),
  CLIPTextModel: ({ config, folder }) => ({
    nets: { text_encoder: clipText(parseConfig(ClipTextConfig, config, folder)) },
  }),
  AutoencoderTiny: ({ config, folder }) => {
    const parsed = parseConfig(TinyVaeConfig, config, folder);
    return {
      nets: { vae_encoder: tinyEncoder(parsed), vae_decoder: tinyDecoder(parsed) },
      latents: {
        channels: parsed.latent_channels,
        factor: parsed.upsampling_scaling_factor ** (parsed.num_encoder_blocks.length - 1),
        scale: parsed.scaling_factor,
        shift: 0, // AutoencoderTiny carries a shift_factor that diffusers never applies
      },
    };
  },
};

/** Parts of a folder, and the first part of their parameters' names. */
const parts = ['unet', 'vae', 'text_encoder'] as const;

/** Loads the parts a folder holds. `fresh` accepts parts without weights, to be initialised. */
export async function loadModel(folder: string, { fresh = false } = {}): Promise<Model> {
  const found = parts.filter((name) => existsSync(join(folder, name, 'config.json')));
  if (found.length === 0)
    throw new AttuneError(
      'NO_MODEL',
      `${folder} is no model folder: none of ${parts.map((name) => `${name}/config.json`).join(', ')} is there.`,
      { folder },
    );
  const loaded = found.map((name) => {
    const part = readPart(join(folder, name), { fresh });
    const family = families[part.className ?? ''];
    if (!family)
      throw new AttuneError(
        'UNKNOWN_CLASS',
        `${part.folder}/config.json: the class ${part.className ?? '(none)'} is not supported; supported: ${Object.keys(families).join(', ')}.`,
        { folder: part.folder },
      );
    return { ...family(part), weights: canonical(part).prefixed(`${name}.`) };
  });
  const latents = loaded.find((part) => part.latents)?.latents;
  const scheduler = join(folder, 'scheduler', 'scheduler_config.json');
  const tokenizer = join(folder, 'tokenizer');
  return {
    nets: Object.assign({}, ...loaded.map(({ nets }) => nets)) as Model['nets'],
    weights: Weights.overlay(...loaded.map(({ weights }) => weights)),
    adapters: [],
    ...(latents ? { latents } : {}),
    ...(existsSync(scheduler)
      ? { schedule: NoiseSchedule.of(readJson(scheduler), scheduler) }
      : {}),
    ...(existsSync(tokenizer) ? { tokenizer: await Tokenizer.load(tokenizer) } : {}),
  };
}

/** Weights under this project's names: newer exports of CLIP leave out the `text_model.` wrapper. */
function canonical({ className, weights }: Part): Weights {
  if (className !== 'CLIPTextModel') return weights;
  return weights.renamed((name) => {
    if (name.endsWith('position_ids')) return undefined; // an integer buffer of old exports
    return name.startsWith('text_model.') ? name : `text_model.${name}`;
  });
}
