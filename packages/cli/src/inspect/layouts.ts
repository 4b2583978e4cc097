/** Well-formed weights that no adapter kind claims: what they are by their names, and what to do. */

import { existsSync } from 'node:fs';
import { join } from 'node:path';

import { baseFamily, readJson, strangeFamilies, strangeFamily } from '@attune/core';
import type { Weights } from '@attune/engine';

import { type Foreign, foreignFiles } from './foreign.ts';

const asFolder = 'name the folder it lies in, with its config.json';
const none = 'there is no adapter kind for it yet';
const ownFamilies = 'Stable Diffusion 1 or 2';

/** By keys that only they have: of each expression there is one. */
const layouts: readonly (readonly [keys: readonly RegExp[], foreign: Foreign])[] = [
  [
    [/^(image_proj\.|ip_adapter\.)/],
    {
      kind: 'ip-adapter',
      reason: 'it is an IP-Adapter',
      fix: 'install a plugin that reads it, such as attune-ip-adapter',
    },
  ],
  [
    [/^clip_[lg]$/],
    {
      kind: 'textual-inversion',
      reason: 'it is a textual inversion for the two text encoders of SDXL',
      fix: `take one made for ${ownFamilies}`,
    },
  ],
  [
    [/(^|\.)controlnet_(cond_embedding|down_blocks|mid_block)\./, /(^|\.)motion_modules\./],
    {
      kind: 'sparse-control',
      reason: "it is a SparseCtrl, AnimateDiff's ControlNet of a few frames",
      fix: `${none}; take a ControlNet, which acts on every frame`,
    },
  ],
  [
    [/^controlnet_(blocks|x_embedder|mode_embedder)\b|^controlnet_single_blocks\./],
    {
      kind: 'controlnet',
      reason: 'it is a ControlNet for a diffusion transformer such as FLUX or Stable Diffusion 3',
      fix: `take one made for ${ownFamilies}`,
    },
  ],
  [
    [/^lllite_/],
    {
      kind: 'controlnet-lllite',
      reason: 'it is a ControlNet-LLLite',
      fix: `${none}; take a ControlNet or a Control-LoRA of the same kind of hint`,
    },
  ],
  [
    [/(^|\.)temporal_attentions\.\d+\./],
    {
      kind: 'motion',
      reason: 'it is a motion module of Hotshot-XL, for Stable Diffusion XL',
      fix: "take AnimateDiff's modules for Stable Diffusion 1",
    },
  ],
  [
    [/(^|\.)motion_modules\.\d+\./, /^conv_in\.weight$/],
    {
      kind: 'motion',
      reason: 'it is PIA: motion modules with a wider first layer of the UNet',
      fix: "take AnimateDiff's modules, which leave the UNet as it is",
    },
  ],
  [
    [/^(320|640|768|1024|1280|2048)\.[01]\.(linear\.)?\d/],
    {
      kind: 'hypernetwork',
      reason: 'it is a hypernetwork',
      fix: `${none}; take a LoRA of the same style`,
    },
  ],
  [
    [/(^|\.)(position_net\.|fuser\.(attn|linear|ff|norm1)\b)/],
    {
      kind: 'gligen',
      reason: 'it is GLIGEN: layers that place things in boxes',
      fix: `${none}; take a ControlNet to say what lies where`,
    },
  ],
  [
    [/(^|\.)(RDB|rdb)\d\.conv\d|^(params(_ema)?\.)?(conv_first|body\.0)\.weight$|residual_group\./],
    {
      kind: 'upscaler',
      reason: 'it is an upscaler of pictures (ESRGAN or the like)',
      fix: 'run it on what attune makes, with a tool for upscalers',
    },
  ],
  [
    [/^(adapter\.)?body\.\d+\.(block[12]|in_conv|skep|down_opt|downsample|resnets)\b/],
    {
      kind: 't2i-adapter',
      reason: 'it is a T2I-Adapter',
      fix: `${none}; take a ControlNet of the same kind of hint`,
    },
  ],
  [
    [/^(model\.diffusion_model\.)?label_emb\./],
    {
      kind: 'model',
      reason:
        'its UNet takes a vector or a label beside the text, as those of SDXL, unCLIP and the x4 upscaler do',
      fix: `take a plain ${ownFamilies} model`,
    },
  ],
  [
    [/^depth_model\./],
    {
      kind: 'model',
      reason: "it is Stable Diffusion 2's model of depth",
      fix: 'take a plain one, and a ControlNet of depth',
    },
  ],
  [
    [/(^|\.)(exp_avg(_sq)?|momentum_buffer)$/],
    {
      kind: 'optimizer',
      reason: "it is an optimiser's state, not weights",
      fix: 'take the weights that the same training wrote',
    },
  ],
  [
    [/^(concept_embeds|special_care_embeds)$/],
    {
      kind: 'safety-checker',
      reason: 'it is a safety checker of pictures',
      fix: 'leave it out: no stack takes one',
    },
  ],
  [
    [/^conv_norm_out\.weight$/],
    { kind: 'unet', reason: 'it holds the weights of a UNet alone', fix: asFolder },
  ],
  [
    [/^(encoder|decoder)\.(down|up)\.\d+\.block\./],
    {
      kind: 'vae',
      reason: 'it holds an autoencoder alone, in the original layout',
      fix: "take the same in diffusers' layout, as the vae folder of a model folder",
    },
  ],
  [
    [/^(taesd_(en|de)coder\.)?\d+\.conv\.0\.weight$/],
    {
      kind: 'vae',
      reason: 'it holds a tiny autoencoder alone, in its own layout',
      fix: "take the same in diffusers' layout (AutoencoderTiny), as the vae folder of a model folder",
    },
  ],
  [
    [/^(encoder|decoder)\.(conv_in|layers\.0)\.weight$/],
    { kind: 'vae', reason: 'it holds the weights of an autoencoder alone', fix: asFolder },
  ],
  [
    [/^(text_model\.)?embeddings\.token_embedding\.weight$/],
    { kind: 'text_encoder', reason: 'it holds the weights of a text encoder alone', fix: asFolder },
  ],
  [
    [/^(vision_model|visual)\./],
    {
      kind: 'image_encoder',
      reason: 'it holds the weights of an image encoder',
      fix: 'leave it to the adapter that reads pictures with it, such as an IP-Adapter',
    },
  ],
];

/** What belongs to a family that no backbone here can be of. */
const stranger = (name: string): Foreign => ({
  kind: 'model',
  reason: `it holds weights of ${name}`,
  fix: `take a model of ${ownFamilies}`,
});

/** Everything that is recognised and refused. */
export const foreign: readonly Foreign[] = [
  ...foreignFiles,
  ...layouts.map(([, known]) => known),
  ...strangeFamilies.map(stranger),
];

/** What an adapter for a family without a backbone is refused with. */
export function strangeAdapter(family: string | undefined): Foreign | undefined {
  const name = strangeFamily(family);
  return name === undefined
    ? undefined
    : {
        kind: null,
        reason: `it was made for ${name}, and no backbone here is of that family`,
        fix: `take one made for ${ownFamilies}; where a plugin brings such a model, name it with --base`,
      };
}

/** What a set of weights is, where that is known. */
export function recogniseNames(weights: Weights): Foreign | undefined {
  const names = [...weights.names()];
  const known = layouts.find(([keys]) => keys.every((key) => names.some((name) => key.test(name))));
  if (known) return known[1];
  const name = strangeFamily(baseFamily(weights));
  return name === undefined ? undefined : stranger(name);
}

/** What is said of weights that nobody knows. */
export function unknown(weights: Weights): Foreign {
  const [first] = weights.names();
  if (first === undefined)
    return { kind: null, reason: 'it holds no tensors', fix: 'download or write it again' };
  return {
    kind: null,
    reason: `its ${weights.size} tensors (first ${first.slice(0, 100)}) are those of no adapter or model that is known here`,
    fix: 'install the plugin that reads it, or take another file',
  };
}

/** Pipelines of diffusers whose model no backbone here can be, by the class that a folder's model_index.json names. */
const pipelines =
  /^(StableDiffusionXL|StableDiffusion3|StableCascade|StableVideo|Wuerstchen|Flux|Chroma|QwenImage|AuraFlow|PixArt|Sana|LTX|CogVideo|CogView|Wan|Hunyuan|Mochi|Allegro|Latte|Lumina|ZImage|Kandinsky|Kolors|IF[A-Z]|DiT|Amused|AudioLDM|MusicLDM|TextToVideo|Unclip|UnCLIP|StableUnCLIP|StableDiffusionUpscale|StableDiffusionGLIGEN)/;

/** A folder of another model, by what its index says. */
export function recogniseFolder(folder: string): Foreign | undefined {
  const index = join(folder, 'model_index.json');
  if (!existsSync(index)) return undefined;
  const { _class_name: name } = Object(readJson(index)) as { _class_name?: unknown };
  if (typeof name !== 'string' || !pipelines.test(name)) return undefined;
  return {
    kind: 'model',
    reason: `it is a model folder for ${name.slice(0, 100)} of diffusers`,
    fix: `take a model of ${ownFamilies}`,
  };
}
