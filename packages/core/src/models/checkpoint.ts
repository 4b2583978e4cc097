/** A whole Stable Diffusion in one file, in the layout of the original code (CompVis): its parts. */

import { existsSync } from 'node:fs';
import { join } from 'node:path';

import { AttuneError, toF32, Weights } from '@attune/engine';

import { type Part, readJson } from './folder.ts';
import { fromLdmVae, inferVae } from './ldm-vae.ts';
import { fromLdm, inferUNet, ldmLayers } from './ldm.ts';
import { fromOpenClip, inferClip, isOpenClip } from './open-clip.ts';

interface Section {
  /** The part of a model folder that it is. */
  readonly part: 'unet' | 'vae' | 'text_encoder';
  readonly className: string;
  /** Its names begin so, in one file or another. */
  readonly prefixes: readonly string[];
  readonly rename: (weights: Weights) => Weights;
  readonly infer: (weights: Weights) => Record<string, unknown>;
}

const sections: readonly Section[] = [
  {
    part: 'unet',
    className: 'UNet2DConditionModel',
    prefixes: ['model.diffusion_model.'],
    rename: (weights) => {
      const layers = ldmLayers(weights);
      return weights.renamed((name) => fromLdm(name, layers) ?? name);
    },
    infer: inferUNet,
  },
  {
    part: 'vae',
    className: 'AutoencoderKL',
    prefixes: ['first_stage_model.', 'vae.'],
    rename: fromLdmVae,
    infer: inferVae,
  },
  {
    part: 'text_encoder',
    className: 'CLIPTextModel',
    prefixes: ['cond_stage_model.transformer.', 'cond_stage_model.model.'],
    rename: (weights) => (isOpenClip(weights) ? fromOpenClip(weights) : wrapped(weights)),
    infer: inferClip,
  },
];

/** The parts of such a file and how their names begin. */
export const checkpointLayout: readonly Pick<Section, 'part' | 'className' | 'prefixes'>[] =
  sections;

/** Training leftovers: schedules, the moving average's second copy, losses. */
const leftovers =
  /^(model_ema\.|first_stage_model\.loss\.|(alphas|betas|sqrt|log_one|posterior|lvlb|logvar|scale_factor)[\w]*$|global_step$|cond_stage_model\.(logit_scale$|transformer\.vision_model\.|transformer\.(visual|text)_projection\.|transformer\.logit_scale$))/;

/** Whether a name is of such a file. */
export const inCheckpoint = (name: string): boolean =>
  leftovers.test(name) ||
  sections.some(({ prefixes }) => prefixes.some((prefix) => name.startsWith(prefix)));

/** Whether these names are of such a file. */
export const isCheckpoint = (weights: Weights): boolean =>
  [...weights.names()].some((name) => name.startsWith('model.diffusion_model.'));

/** Newer exports lack the wrapper; an integer buffer of old ones goes. */
const wrapped = (weights: Weights): Weights =>
  weights.renamed((name) => {
    if (name.endsWith('position_ids')) return undefined;
    return name.startsWith('text_model.') ? name : `text_model.${name}`;
  });

/** The moving average has the names of the UNet's weights, without `model.` and without dots. */
const averageOf = (name: string): string =>
  `model_ema.${name.slice('model.'.length).replaceAll('.', '')}`;

/** Whether a checkpoint holds the moving average of its UNet beside the UNet as it was trained last. */
export const hasAverage = (weights: Weights): boolean =>
  weights.has(averageOf('model.diffusion_model.input_blocks.0.0.weight'));

/**
 * The same checkpoint with the moving average in the UNet's place. Throws NO_EMA where it holds none, and
 * MISSING_WEIGHT where the average lacks a weight.
 */
export function averaged(weights: Weights, path: string): Weights {
  if (!hasAverage(weights))
    throw new AttuneError(
      'NO_EMA',
      `${path} holds no moving average (model_ema.…) of its UNet: leave \`weights: ema\` out.`,
      { path },
    );
  const own = [...weights.names()].map(
    (name) =>
      [
        name,
        weights.entry(name.startsWith('model.diffusion_model.') ? averageOf(name) : name),
      ] as const,
  );
  return Weights.fromEntries(own);
}

/**
 * The parts of a single-file checkpoint under diffusers' names, each with the config that `configs` (a
 * model folder) has for it, or the one that its names and shapes tell.
 *
 * @throws UNMATCHED_WEIGHTS for a tensor that belongs to no part
 */
export function checkpointParts(
  weights: Weights,
  path: string,
  configs?: string,
): readonly { readonly name: Section['part']; readonly part: Part }[] {
  const lost = [...weights.names()].filter((name) => !inCheckpoint(name));
  if (lost.length)
    throw new AttuneError(
      'UNMATCHED_WEIGHTS',
      `${path}: ${lost.length} tensors belong to no part of a Stable Diffusion checkpoint, first ${lost[0]}.`,
      { lost },
    );
  const kept = weights.renamed((name) => (leftovers.test(name) ? undefined : name));
  return sections.flatMap(({ part, className, prefixes, rename, infer }) => {
    const own = Weights.overlay(...prefixes.map((prefix) => kept.under(prefix)));
    if (own.size === 0) return [];
    const renamed = rename(own);
    const file = configs === undefined ? undefined : join(configs, part, 'config.json');
    const config = file !== undefined && existsSync(file) ? readJson(file) : infer(renamed);
    const folder = `${path} (${part})`;
    return [{ name: part, part: { className, folder, config, weights: renamed } }];
  });
}

const UNET = 'model.diffusion_model.';
const textKey = `${UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight`;

/** A bias whose spread tells what Stable Diffusion 2 was trained to predict, and the least of those that predict v. */
const spreadKey = `${UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias`;
const SPREAD = 0.09;

/** Whether its text encoder or the text that its UNet reads is Stable Diffusion 2's. */
const isSecond = (weights: Weights): boolean =>
  isOpenClip(weights.under('cond_stage_model.model.')) ||
  (weights.has(textKey) && weights.entry(textKey).shape[1] === 1024);

/** What such a file's UNet predicts, and by which sign that is told; no sign where nothing is in doubt. */
export interface Predicts {
  readonly type: 'epsilon' | 'v_prediction';
  readonly sign?: string;
}

/**
 * Stable Diffusion 1 predicts the noise, 2 the velocity, but for its 512-pixel bases (2.0-base, 2.1-base) and its
 * inpainting model. Told by the header's `modelspec.prediction_type`, by the channels (only the plain model can
 * predict v), and else, as ComfyUI does (`supported_models.py`), by how widely one bias is spread.
 */
export function checkpointPredicts(weights: Weights): Predicts {
  const told = weights.metadata['modelspec.prediction_type'];
  if (told !== undefined)
    return {
      type: told.startsWith('v') ? 'v_prediction' : 'epsilon',
      sign: `its header's modelspec.prediction_type (${told.slice(0, 40)})`,
    };
  if (!isSecond(weights)) return { type: 'epsilon' };
  const [, channels] = weights.entry(`${UNET}input_blocks.0.0.weight`).shape;
  if (channels !== 4)
    return {
      type: 'epsilon',
      sign: `the ${channels} channels that it reads, as Stable Diffusion 2's inpainting model`,
    };
  if (!weights.has(spreadKey))
    return { type: 'v_prediction', sign: 'nothing in it: most models of Stable Diffusion 2 do' };
  const spread = deviation(toF32(weights.entry(spreadKey).load()).data);
  const wide = spread > SPREAD;
  return {
    type: wide ? 'v_prediction' : 'epsilon',
    sign: `the spread of ${spreadKey.slice(UNET.length)}, ${spread.toFixed(3)}: ${wide ? 'above' : 'at most'} ${SPREAD}, as in ${wide ? '2.0 and 2.1' : '2.0-base and 2.1-base'}`,
  };
}

function deviation(values: Float32Array): number {
  const mean = values.reduce((sum, x) => sum + x, 0) / values.length;
  return Math.sqrt(values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / values.length);
}

/** What such a file does not hold: the scheduler's config and the tokenizer's padding. */
export function checkpointDefaults(weights: Weights): { schedule: object; pad?: string } {
  return {
    schedule: {
      _class_name: 'DDIMScheduler',
      beta_schedule: 'scaled_linear',
      beta_start: 0.00085,
      beta_end: 0.012,
      num_train_timesteps: 1000,
      prediction_type: checkpointPredicts(weights).type,
      steps_offset: 1,
      set_alpha_to_one: false,
      clip_sample: false,
    },
    ...(isSecond(weights) ? { pad: '!' } : {}),
  };
}
