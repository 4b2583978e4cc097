/** Families of models that files in the wild belong to, told by names and widths; which can be a backbone here. */

import type { Weights } from '@attune/engine';

/** How one is known. */
interface Sign {
  readonly family: string;
  /** A name that only files of this family have: of a weight, or of a low-rank matrix for it. */
  readonly name: RegExp;
  /** What such a layer reads, in features. Default: any number. */
  readonly reads?: readonly number[];
}

/** What families are called. Those that can be a backbone are Stable Diffusion 1 and 2. */
const names: Readonly<Record<string, string>> = {
  sd1: 'Stable Diffusion 1',
  sd2: 'Stable Diffusion 2',
  sdxl: 'Stable Diffusion XL',
  'sdxl-refiner': "Stable Diffusion XL's refiner",
  sd3: 'Stable Diffusion 3',
  cascade: 'Stable Cascade',
  svd: 'Stable Video Diffusion',
  modelscope: 'the text-to-video UNet of ModelScope or Zeroscope',
  'hunyuan-video': 'Hunyuan Video',
  flux: 'FLUX (or Hunyuan Video, whose blocks may have the same names)',
  'qwen-image': 'Qwen-Image',
  auraflow: 'AuraFlow',
  pixart: 'PixArt',
  sana: 'Sana',
  ltx: 'LTX-Video',
  cogvideox: 'CogVideoX',
  wan: 'Wan',
  'hunyuan-dit': 'Hunyuan-DiT',
  lumina: 'Lumina or Z-Image',
  dit: 'a diffusion transformer',
  llm: 'a language model',
};

/** The families that a backbone can be of. */
const ours: ReadonlySet<string> = new Set(['sd1', 'sd2']);

/** A transformer's own blocks, which a UNet has inside its attentions. */
const blocks =
  '^(?:base_model\\.model\\.)?(?:(?:transformer|lora_transformer|lora_unet|lycoris|model\\.diffusion_model|diffusion_model)[._])?transformer_blocks[._]\\d+[._]';
const joint = new RegExp(`${blocks}attn[._](?:to_|add_)`);
const crossed = new RegExp(`${blocks}(?:attn[12]|ff)[._]`);

/** In the order in which they are asked for: the most particular first. */
const signs: readonly Sign[] = [
  {
    family: 'hunyuan-video',
    name: /(?:^|[._])token_refiner[._]|double_blocks\.\d+\.(?:img|txt)_attn_qkv/,
  },
  { family: 'auraflow', name: /(?:^|[._])joint_transformer_blocks[._]\d+[._]/ },
  {
    family: 'flux',
    name: /(?:^|[._])(?:double_blocks|single_blocks|single_transformer_blocks)[._]\d+[._]/,
  },
  { family: 'sd3', name: /(?:^|[._])joint_blocks[._]\d+[._]/ },
  { family: 'qwen-image', name: /(?:^|[._])transformer_blocks[._]\d+[._](?:img|txt)_(?:mlp|mod)/ },
  { family: 'sd3', name: joint, reads: [1536, 2432] },
  { family: 'flux', name: joint, reads: [3072] },
  { family: 'pixart', name: crossed, reads: [1152] },
  { family: 'ltx', name: crossed, reads: [2048, 4096] },
  { family: 'sana', name: crossed, reads: [2240] },
  { family: 'cogvideox', name: crossed, reads: [1920, 3072] },
  { family: 'dit', name: joint },
  { family: 'dit', name: crossed },
  {
    family: 'wan',
    name: /(?:^|[._])blocks[._]\d+[._](?:(?:self|cross)_attn[._][qkvo]|ffn[._]\d)[._]|^(?:transformer|diffusion_model)\.blocks\.\d+\.attn[12]\.to_/,
  },
  {
    family: 'hunyuan-dit',
    name: /(?:^|[._])blocks[._]\d+[._]attn[12][._](?:W?qkv|[qkv]_proj|kv_proj|out_proj)[._]/,
  },
  {
    family: 'cascade',
    name: /(?:down|up)_blocks[._]\d+[._]\d+[._](?:attention|kv_mapper|channelwise|mapper)[._]/,
  },
  {
    family: 'lumina',
    name: /(?:^|[._])layers[._]\d+[._](?:attention[._](?:qkv|out|to_[qkv])|adaLN_modulation)[._]/,
  },
  { family: 'svd', name: /[._](?:temporal_transformer_blocks|temporal_res_block|time_stack)[._]/ },
  { family: 'modelscope', name: /[._]temp_(?:attentions|convs)[._]|(?:^|[._])transformer_in[._]/ },
  {
    family: 'llm',
    name: /(?:^|[._])(?<!encoder[._])layers[._]\d+[._](?:self_attn[._](?:q|k|v|o|qkv)_proj|mlp[._](?:gate|up|down|gate_up)_proj)/,
  },
  {
    family: 'llm',
    name: /(?:^|[._])(?:h[._]\d+[._](?:attn[._]c_attn|mlp[._]c_fc)|encoder[._]layer[._]\d+[._]attention|(?:en|de)coder[._]block[._]\d+[._]layer)[._]|[._]query_key_value[._]/,
  },
];

/** Layers of a UNet that read text, by what they read; in motion modules the second attention reads frames. */
const readsText = /^(?!.*motion_modules).*attn2[._](?:processor\.)?to_[kv](?:\.|_lora\.)/;
const textWidths: ReadonlyMap<number, string> = new Map([
  [768, 'sd1'],
  [1024, 'sd2'],
  [1280, 'sdxl-refiner'],
  [2048, 'sdxl'],
]);

/** What only the UNet of SDXL has: further transformers in one attention of its widths; and a second encoder. */
const deeper =
  /(?:attentions|input_blocks|output_blocks|middle_block)[._][\d._]*transformer_blocks[._][1-9]\d*[._]attn1[._]/;
const secondEncoder = /^(?:lora_te2|lycoris_text_encoder_2|text_encoder_2)[._]/;

/** Text encoders of Stable Diffusion 1 and 2, whose first layer reads what words are. */
const encodes = /text_model[._]encoder[._]layers[._]\d+[._]self_attn[._][qkv]_proj[._]/;

/** How many features the layer of a tensor reads, where its shape tells. */
function reads(weights: Weights, name: string): number | undefined {
  const inner =
    /(?:^|\.)(?:weight|lora_A(?:\.\w+)?\.weight|(?:lora_)?down\.weight|hada_w[12]_b|diff)$/;
  return inner.test(name) && !/lora_up|up\.weight|lora_B/.test(name)
    ? weights.entry(name).shape[1]
    : undefined;
}

/**
 * The family of models that weights, or changes of weights, belong to, as far as names and widths tell: `sd1`,
 * `sd2`, `sdxl`, `flux`, …, or `text width 24` for a UNet of no known family.
 */
export function baseFamily(weights: Weights): string | undefined {
  const all = [...weights.names()];
  const known = signs.find(({ name, reads: wanted }) =>
    all.some((one) => name.test(one) && (!wanted || wanted.includes(reads(weights, one) ?? -1))),
  );
  if (known) return known.family;
  for (const name of all) {
    const width = readsText.test(name) ? reads(weights, name) : undefined;
    if (width !== undefined) return textWidths.get(width) ?? `text width ${width}`;
  }
  if (all.some((one) => secondEncoder.test(one))) return 'sdxl';
  if (all.some((one) => deeper.test(one) && [640, 1280].includes(reads(weights, one) ?? -1)))
    return 'sdxl';
  for (const name of all) {
    const width = encodes.test(name) ? reads(weights, name) : undefined;
    if (width === 768 || width === 1024) return textWidths.get(width);
  }
  return undefined;
}

/** What a family is called that no backbone here can be of; undefined for one that is ours or not known. */
export const strangeFamily = (family: string | undefined): string | undefined =>
  family === undefined || ours.has(family) ? undefined : names[family];

/** All of these, by their names. */
export const strangeFamilies: readonly string[] = Object.entries(names).flatMap(([family, name]) =>
  ours.has(family) ? [] : [name],
);
