/** A model folder in diffusers' layout as a Model. */

import { existsSync } from 'node:fs';
import { join } from 'node:path';

import { AttuneError, Weights } from '@attune/engine';

import { TinyVaeConfig, UNetConfig } from './config.ts';
import { parseConfig, type Part, readPart } from './folder.ts';
import type { Model } from './model.ts';
import type { Net } from './net.ts';
import { tinyDecoder, tinyEncoder } from './tiny-vae.ts';
import { unet } from './unet.ts';

/** The nets of one part, by the library's class name. */
const families: Readonly<Record<string, (part: Part) => Readonly<Record<string, Net>>>> = {
  UNet2DConditionModel: ({ config, folder }) => ({
    unet: unet(parseConfig(UNetConfig, config, folder)),
  }),
  AutoencoderTiny: ({ config, folder }) => {
    const parsed = parseConfig(TinyVaeConfig, config, folder);
    return { vae_encoder: tinyEncoder(parsed), vae_decoder: tinyDecoder(parsed) };
  },
};

/** Parts of a folder, and the first part of their parameters' names. */
const parts = ['unet', 'vae', 'text_encoder'] as const;

/**
 * Loads the parts a folder holds; a folder of a single part works, too. `fresh` accepts parts without
 * weights, to be initialised.
 */
export function loadModel(folder: string, { fresh = false } = {}): Model {
  const found = parts.filter((name) => existsSync(join(folder, name, 'config.json')));
  if (found.length === 0)
    throw new AttuneError(
      'NO_MODEL',
      `${folder} is no model folder: none of ${parts.map((name) => `${name}/config.json`).join(', ')} is there.`,
      { folder },
    );
  const nets: Record<string, Net> = {};
  const weights: Weights[] = [];
  for (const name of found) {
    const part = readPart(join(folder, name), { fresh });
    const family = families[part.className ?? ''];
    if (!family)
      throw new AttuneError(
        'UNKNOWN_CLASS',
        `${part.folder}/config.json: the class ${part.className ?? '(none)'} is not supported; supported: ${Object.keys(families).join(', ')}.`,
        { folder: part.folder },
      );
    Object.assign(nets, family(part));
    weights.push(part.weights.prefixed(`${name}.`));
  }
  return { nets, weights: Weights.overlay(...weights), adapters: [] };
}
