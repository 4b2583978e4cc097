/** A model folder in diffusers' layout, or a single-file checkpoint, as a Model. */

import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';

import { AttuneError, Weights } from '@attune/engine';

import type { PluginLoader } from '../plugins/loader.ts';
import { type NetKind, netKind } from '../plugins/plugin.ts';
import { NoiseSchedule } from '../schedule/noise.ts';
import { averaged, checkpointDefaults, checkpointParts, isCheckpoint } from './checkpoint.ts';
import { clipTokenizer } from './clip-vocabulary.ts';
import { clipText } from './clip.ts';
import { ClipTextConfig, TinyVaeConfig, UNetConfig, VaeConfig } from './config.ts';
import { parseConfig, type Part, readJson, readPart } from './folder.ts';
import type { Model } from './model.ts';
import { tinyDecoder, tinyEncoder } from './tiny-vae.ts';
import { Tokenizer } from './tokenizer.ts';
import { unet } from './unet.ts';
import { vaeDecoder, vaeEncoder } from './vae.ts';

/** The families this project knows, by the library's class name. */
const families: Readonly<Record<string, NetKind>> = {
  UNet2DConditionModel: netKind({
    config: UNetConfig,
    create: ({ sample_size: size, ...config }) => ({
      nets: { unet: unet(config) },
      ...(size ? { sampleSize: typeof size === 'number' ? [size, size] : size } : {}),
    }),
  }),
  CLIPTextModel: netKind({
    config: ClipTextConfig,
    create: (config) => ({ nets: { text_encoder: clipText(config) } }),
  }),
  AutoencoderKL: netKind({
    config: VaeConfig,
    create: (config) => ({
      nets: { vae_encoder: vaeEncoder(config), vae_decoder: vaeDecoder(config) },
      latents: {
        channels: config.latent_channels,
        factor: 2 ** (config.block_out_channels.length - 1),
        scale: config.scaling_factor,
        shift: config.shift_factor ?? 0,
      },
    }),
  }),
  AutoencoderTiny: netKind({
    config: TinyVaeConfig,
    create: (config) => ({
      nets: { vae_encoder: tinyEncoder(config), vae_decoder: tinyDecoder(config) },
      latents: {
        channels: config.latent_channels,
        factor: config.upsampling_scaling_factor ** (config.num_encoder_blocks.length - 1),
        scale: config.scaling_factor,
        shift: 0, // AutoencoderTiny carries a shift_factor that diffusers never applies
      },
    }),
  }),
};

/** Parts of a folder, and the first part of their parameters' names. */
export const modelParts = ['unet', 'vae', 'text_encoder'] as const;

/** The part that a class is, for a folder that is one part by itself. */
const partOf: Readonly<Record<string, (typeof modelParts)[number]>> = {
  UNet2DConditionModel: 'unet',
  AutoencoderKL: 'vae',
  AutoencoderTiny: 'vae',
  CLIPTextModel: 'text_encoder',
};

/** What of a model folder is read beside weights: configs, the scheduler, the tokenizer's files. */
export function companionFiles(folder: string): string[] {
  const tokenizer = join(folder, 'tokenizer');
  return [
    'config.json',
    ...modelParts.map((name) => join(name, 'config.json')),
    join('scheduler', 'scheduler_config.json'),
    ...(existsSync(tokenizer)
      ? readdirSync(tokenizer)
          .filter((name) => /\.(json|txt)$/.test(name))
          .map((name) => join('tokenizer', name))
      : []),
  ]
    .map((name) => join(folder, name))
    .filter((file) => existsSync(file));
}

export interface LoadOptions {
  /** Accept parts without weights, to be initialised. */
  readonly fresh?: boolean;
  /** Finds the families that plugins contribute. */
  readonly loader?: PluginLoader;
  /**
   * A model folder whose configs, scheduler and tokenizer a single-file checkpoint takes. Without it they
   * are what its names and shapes tell of Stable Diffusion 1 or 2.
   */
  readonly config?: string;
  /** Of a single-file checkpoint that holds both, the UNet's moving average; default: the UNet as trained last. */
  readonly weights?: 'ema';
}

/** Loads the parts that a folder or a single-file checkpoint holds, or a folder as a part. */
export async function loadModel(path: string, options: LoadOptions = {}): Promise<Model> {
  const place = statSync(path, { throwIfNoEntry: false });
  if (!place)
    throw new AttuneError(
      'MISSING_FILE',
      `${path} does not exist: a backbone is a model folder, a checkpoint in one file, hf:owner/name after a pull, or a bundled model by its name.`,
      { path },
    );
  return place.isFile() ? loadCheckpoint(path, options) : loadFolder(path, options);
}

async function loadFolder(
  folder: string,
  { fresh = false, loader, weights }: LoadOptions,
): Promise<Model> {
  if (weights !== undefined)
    throw new AttuneError(
      'BAD_CONFIG',
      `weights: ${weights} is for checkpoints in one file; in a model folder such as ${folder} the plain weights are the average where there is one (the others are called non_ema).`,
      { folder },
    );
  const found: Named[] = modelParts
    .filter((name) => existsSync(join(folder, name, 'config.json')))
    .map((name) => ({ name, part: readPart(join(folder, name), { fresh }) }));
  if (found.length === 0 && existsSync(join(folder, 'config.json'))) {
    const part = readPart(folder, { fresh });
    const { className = '' } = part;
    const name = partOf[className] ?? className.split('/')[1];
    if (name) found.push({ name, part });
  }
  if (found.length === 0)
    throw new AttuneError(
      'NO_MODEL',
      `${folder} is no model folder: none of ${modelParts.map((name) => `${name}/config.json`).join(', ')} is there.`,
      { folder },
    );
  return { ...(await assemble(found, loader)), ...(await companions(folder)) };
}

async function loadCheckpoint(
  path: string,
  { loader, config, weights: copy }: LoadOptions,
): Promise<Model> {
  const weights = Weights.fromFile(path);
  if (!isCheckpoint(weights))
    throw new AttuneError(
      'NO_MODEL',
      `${path} is no Stable Diffusion checkpoint: it holds no model.diffusion_model (${weights.size} tensors). A backbone is such a file or a model folder; attune inspect says what this is.`,
      { path },
    );
  const model = await assemble(
    checkpointParts(copy === 'ema' ? averaged(weights, path) : weights, path, config),
    loader,
  );
  const told = config === undefined ? {} : await companions(config);
  const { schedule, pad } = checkpointDefaults(weights);
  return {
    ...model,
    schedule: told.schedule ?? NoiseSchedule.of(schedule, path),
    tokenizer: told.tokenizer ?? clipTokenizer(pad),
  };
}

interface Named {
  readonly name: string;
  readonly part: Part;
}

async function assemble(found: readonly Named[], loader?: PluginLoader): Promise<Model> {
  const loaded = await Promise.all(
    found.map(async ({ name, part }) => {
      const family = await familyOf(part, loader);
      return {
        ...family.create(
          parseConfig(family.config, part.config, join(part.folder, 'config.json')),
          name,
        ),
        weights: canonical(part).prefixed(`${name}.`),
      };
    }),
  );
  const latents = loaded.find((part) => part.latents)?.latents;
  const sampleSize = loaded.find((part) => part.sampleSize)?.sampleSize;
  return {
    nets: Object.assign({}, ...loaded.map(({ nets }) => nets)) as Model['nets'],
    weights: Weights.overlay(...loaded.map(({ weights }) => weights)),
    configs: Object.fromEntries(found.map(({ name, part }) => [name, part.config])),
    adapters: [],
    ...(latents ? { latents } : {}),
    ...(sampleSize ? { sampleSize } : {}),
  };
}

/** What a model folder has beside its nets. */
async function companions(folder: string): Promise<Pick<Model, 'schedule' | 'tokenizer'>> {
  const scheduler = join(folder, 'scheduler', 'scheduler_config.json');
  const tokenizer = join(folder, 'tokenizer');
  return {
    ...(existsSync(scheduler)
      ? { schedule: NoiseSchedule.of(readJson(scheduler), scheduler) }
      : {}),
    ...(existsSync(tokenizer) ? { tokenizer: await Tokenizer.load(tokenizer) } : {}),
  };
}

/** A class of this project by its name, one of a plugin by its id. */
async function familyOf(
  { className = '(none)', folder }: Part,
  loader?: PluginLoader,
): Promise<NetKind> {
  const own = families[className];
  if (own) return own;
  if (loader && className.includes('/')) return loader.get('nets', className);
  const known = [...Object.keys(families), ...(loader?.ids('nets') ?? [])];
  throw new AttuneError(
    'UNKNOWN_CLASS',
    `${folder}/config.json: the class ${className} is not supported; supported: ${known.join(', ')}.`,
    { folder },
  );
}

/** Attention layers as diffusers named them before 0.17: still common in SD-1.5 repositories. */
const oldAttention: Readonly<Record<string, string>> = {
  query: 'to_q',
  key: 'to_k',
  value: 'to_v',
  proj_attn: 'to_out.0',
};

/** Weights of a folder's part under one set of names, whatever version of a library wrote them. */
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
