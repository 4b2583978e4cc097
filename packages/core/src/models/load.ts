/** A model folder in diffusers' layout as a Model. */

import { existsSync } from 'node:fs';
import { join } from 'node:path';

import { AttuneError, Weights } from '@attune/engine';

import { NoiseSchedule } from '../schedule/noise.ts';
import { clipText } from './clip.ts';
import { ClipTextConfig, TinyVaeConfig, UNetConfig, VaeConfig } from './config.ts';
import { parseConfig, type Part, readJson, readPart } from './folder.ts';
import type { Model } from './model.ts';
import { tinyDecoder, tinyEncoder } from './tiny-vae.ts';
import { Tokenizer } from './tokenizer.ts';
import { unet } from './unet.ts';
import { vaeDecoder, vaeEncoder } from './vae.ts';

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
  AutoencoderKL: ({ config, folder }) => {
    const parsed = parseConfig(VaeConfig, config, folder);
    return {
      nets: { vae_encoder: vaeEncoder(parsed), vae_decoder: vaeDecoder(parsed) },
      latents: {
        channels: parsed.latent_channels,
        factor: 2 ** (parsed.block_out_channels.length - 1),
        scale: parsed.scaling_factor,
        shift: parsed.shift_factor ?? 0,
      },
    };
  },
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

/** The part that a class is, for a folder that is one part by itself. */
const partOf: Readonly<Record<string, (typeof parts)[number]>> = {
  UNet2DConditionModel: 'unet',
  AutoencoderKL: 'vae',
  AutoencoderTiny: 'vae',
  CLIPTextModel: 'text_encoder',
};

/** Loads the parts a folder holds, or the folder as a part. `fresh` accepts parts without weights, to be initialised. */
export async function loadModel(folder: string, { fresh = false } = {}): Promise<Model> {
  const found: { name: string; part: Part }[] = parts
    .filter((name) => existsSync(join(folder, name, 'config.json')))
    .map((name) => ({ name, part: readPart(join(folder, name), { fresh }) }));
  if (found.length === 0 && existsSync(join(folder, 'config.json'))) {
    const part = readPart(folder, { fresh });
    const name = partOf[part.className ?? ''];
    if (name) found.push({ name, part });
  }
  if (found.length === 0)
    throw new AttuneError(
      'NO_MODEL',
      `${folder} is no model folder: none of ${parts.map((name) => `${name}/config.json`).join(', ')} is there.`,
      { folder },
    );
  const loaded = found.map(({ name, part }) => {
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

/** Attention layers as diffusers named them before 0.17: still common in SD-1.5 repositories. */
const oldAttention: Readonly<Record<string, string>> = {
  query: 'to_q',
  key: 'to_k',
  value: 'to_v',
  proj_attn: 'to_out.0',
};

/** Weights under one set of names, whatever version of a library wrote them. */
function canonical({ className, weights }: Part): Weights {
  switch (className) {
    case 'CLIPTextModel':
      return weights.renamed((name) => {
        if (name.endsWith('position_ids')) return undefined; // an integer buffer of old exports
        return name.startsWith('text_model.') ? name : `text_model.${name}`;
      });
    case 'AutoencoderKL':
      return weights.renamed((name) =>
        name.replace(
          /(\.attentions\.\d+\.)(query|key|value|proj_attn)\./,
          (_, place: string, old: string) => `${place}${oldAttention[old]}.`,
        ),
      );
    default:
      return weights;
  }
}
