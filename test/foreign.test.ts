/**
 * Weights of the wild that attune does not load, by names of their real layouts: each verdict says what the file is
 * and what to do, and never calls it loadable.
 */

import { expect, test } from 'vitest';

import { holding, type Shapes, verdictOn } from './foreign-scene.ts';

/** A pair of matrices in a dialect. */
const pair = (module: string, width: number, sides: readonly [string, string]): Shapes => ({
  [`${module}.${sides[0]}.weight`]: [2, width],
  [`${module}.${sides[1]}.weight`]: [4, 2],
});
const kohya = (module: string, width = 8): Shapes => pair(module, width, ['lora_down', 'lora_up']);
const peft = (module: string, width = 8): Shapes => pair(module, width, ['lora_A', 'lora_B']);

const attention = (level: string) => `lora_unet_${level}_transformer_blocks_0`;

test.each<[string, Shapes, string, RegExp]>([
  [
    'SDXL, by what it reads',
    kohya(`${attention('input_blocks_4_1')}_attn2_to_k`, 2048),
    'sdxl',
    /Stable Diffusion XL/,
  ],
  [
    'SDXL, by its depth',
    peft('unet.down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q', 640),
    'sdxl',
    /Stable Diffusion XL/,
  ],
  [
    'SDXL, by its second text encoder',
    kohya('lora_te2_text_model_encoder_layers_0_self_attn_q_proj', 1280),
    'sdxl',
    /Stable Diffusion XL/,
  ],
  ['FLUX by kohya', kohya('lora_unet_double_blocks_0_img_attn_proj', 3072), 'flux', /FLUX/],
  ['FLUX by kohya, single', kohya('lora_unet_single_blocks_3_linear1', 3072), 'flux', /FLUX/],
  [
    'FLUX by diffusers',
    peft('transformer.single_transformer_blocks.7.attn.to_q', 3072),
    'flux',
    /FLUX/,
  ],
  [
    'FLUX by diffusers, double',
    peft('transformer.transformer_blocks.0.attn.add_q_proj', 3072),
    'flux',
    /FLUX/,
  ],
  [
    'SD3 by diffusers',
    peft('transformer.transformer_blocks.0.attn.to_q', 1536),
    'sd3',
    /Stable Diffusion 3/,
  ],
  [
    'SD3 by kohya',
    kohya('lora_unet_joint_blocks_0_x_block_attn_qkv', 1536),
    'sd3',
    /Stable Diffusion 3/,
  ],
  ['PixArt', peft('transformer.transformer_blocks.0.attn1.to_q', 1152), 'pixart', /PixArt/],
  ['LTX', peft('transformer.transformer_blocks.0.attn2.to_k', 2048), 'ltx', /LTX/],
  ['Wan', peft('diffusion_model.blocks.0.cross_attn.k', 1536), 'wan', /Wan/],
  ['Wan by musubi', kohya('lora_unet_blocks_0_self_attn_q', 1536), 'wan', /Wan/],
  ['Wan by diffusers', peft('transformer.blocks.0.attn1.to_q', 1536), 'wan', /Wan/],
  [
    'Hunyuan Video',
    peft('diffusion_model.double_blocks.0.img_attn_qkv', 3072),
    'hunyuan-video',
    /Hunyuan Video/,
  ],
  ['Hunyuan-DiT', kohya('lora_unet_blocks_0_attn1_Wqkv', 1408), 'hunyuan-dit', /Hunyuan-DiT/],
  ['Qwen-Image', peft('transformer_blocks.0.img_mlp.net.2', 12288), 'qwen-image', /Qwen/],
  ['Z-Image', peft('diffusion_model.layers.0.attention.to_q', 3840), 'lumina', /Z-Image/],
  [
    'Stable Video Diffusion',
    peft('unet.down_blocks.0.attentions.0.temporal_transformer_blocks.0.attn1.to_q', 320),
    'svd',
    /Video Diffusion/,
  ],
  [
    'Llama, attention',
    peft('base_model.model.model.layers.0.self_attn.q_proj', 4096),
    'llm',
    /language model/,
  ],
  [
    'Llama, feed-forward',
    peft('base_model.model.model.layers.0.mlp.gate_proj', 4096),
    'llm',
    /language model/,
  ],
  ['GPT-2', peft('base_model.model.transformer.h.0.attn.c_attn', 768), 'llm', /language model/],
  [
    'T5',
    peft('base_model.model.encoder.block.0.layer.0.SelfAttention.q', 512),
    'llm',
    /language model/,
  ],
])('a LoRA of another family: %s', async (_, shapes, base, name) => {
  const verdict = await verdictOn(holding(shapes));
  expect(verdict).toMatchObject({ verdict: 'refused', container: 'ok', kind: 'lora', base });
  expect(verdict.reason).toMatch(name);
  expect(verdict.fix).toMatch(/Stable Diffusion 1 or 2/);
});

test.each<[string, Shapes, string | null]>([
  ['SD 1 by kohya', kohya(`${attention('down_blocks_0_attentions_0')}_attn2_to_k`, 768), 'sd1'],
  [
    "SD 1 by kohya, original blocks' names",
    kohya(`${attention('output_blocks_3_1')}_attn2_to_v`, 768),
    'sd1',
  ],
  [
    'SD 2 by diffusers',
    peft('unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k', 1024),
    'sd2',
  ],
  [
    'SD 1 before 0.19',
    {
      'down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.down.weight': [
        4, 768,
      ],
      'down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_k_lora.up.weight': [
        320, 4,
      ],
    },
    'sd1',
  ],
  ['text alone', kohya('lora_te_text_model_encoder_layers_0_self_attn_q_proj', 768), 'sd1'],
  [
    'text alone by PEFT',
    peft('base_model.model.text_model.encoder.layers.0.self_attn.k_proj', 1024),
    'sd2',
  ],
  [
    'a LoHa',
    {
      [`${attention('mid_block_attentions_0')}_attn2_to_k.hada_w1_a`]: [1280, 4],
      [`${attention('mid_block_attentions_0')}_attn2_to_k.hada_w1_b`]: [4, 768],
      [`${attention('mid_block_attentions_0')}_attn2_to_k.hada_w2_a`]: [1280, 4],
      [`${attention('mid_block_attentions_0')}_attn2_to_k.hada_w2_b`]: [4, 768],
    },
    'sd1',
  ],
  [
    'on motion modules',
    peft('unet.up_blocks.1.motion_modules.0.transformer_blocks.0.attn2.to_k', 1280),
    null,
  ],
])('a LoRA of ours: %s', async (_, shapes, base) => {
  expect(await verdictOn(holding(shapes))).toMatchObject({ verdict: 'loadable', base });
});

const block = 'transformer_blocks.0.attn2.to_k.weight';

test.each<[string, Shapes, RegExp, RegExp]>([
  [
    'an SDXL checkpoint',
    {
      'conditioner.embedders.1.model.ln_final.weight': [4],
      [`model.diffusion_model.input_blocks.4.1.${block}`]: [4, 2048],
      'model.diffusion_model.label_emb.0.0.weight': [4, 2816],
    },
    /as those of SDXL/,
    /Stable Diffusion 1 or 2/,
  ],
  [
    "SDXL's UNet",
    { 'add_embedding.linear_1.weight': [4, 4], [`down_blocks.1.attentions.0.${block}`]: [4, 2048] },
    /Stable Diffusion XL/,
    /Stable Diffusion 1 or 2/,
  ],
  [
    'a FLUX transformer',
    { 'double_blocks.0.img_attn.qkv.weight': [4, 8], 'single_blocks.0.linear1.weight': [4, 8] },
    /FLUX/,
    /Stable Diffusion 1 or 2/,
  ],
  [
    'a FLUX checkpoint',
    { 'model.diffusion_model.double_blocks.0.img_attn.qkv.weight': [4, 8] },
    /FLUX/,
    /Stable Diffusion 1 or 2/,
  ],
  [
    'an SD3 checkpoint',
    { 'model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight': [4, 8] },
    /Stable Diffusion 3/,
    /Stable Diffusion 1 or 2/,
  ],
  [
    'a language model',
    { 'model.layers.0.self_attn.q_proj.weight': [4, 8] },
    /language model/,
    /Stable Diffusion 1 or 2/,
  ],
  [
    'Stable Video Diffusion',
    { 'model.diffusion_model.input_blocks.1.1.time_stack.0.attn1.to_q.weight': [4, 4] },
    /Stable Video Diffusion/,
    /Stable Diffusion 1 or 2/,
  ],
  [
    'an SDXL ControlNet',
    {
      'controlnet_cond_embedding.conv_in.weight': [4, 3, 3, 3],
      [`down_blocks.1.attentions.0.${block}`]: [4, 2048],
    },
    /made for Stable Diffusion XL/,
    /Stable Diffusion 1 or 2/,
  ],
  [
    'a FLUX ControlNet',
    { 'controlnet_blocks.0.weight': [4, 4], 'controlnet_x_embedder.weight': [4, 4] },
    /ControlNet for a diffusion transformer/,
    /Stable Diffusion 1 or 2/,
  ],
  [
    'SparseCtrl',
    {
      'controlnet_cond_embedding.conv_in.weight': [4, 4, 3, 3],
      'down_blocks.0.motion_modules.0.transformer_blocks.0.attn1.to_q.weight': [4, 4],
    },
    /SparseCtrl/,
    /ControlNet/,
  ],
  [
    'SparseCtrl as AnimateDiff saves it',
    {
      'module.controlnet_cond_embedding.weight': [4, 4, 3, 3],
      'module.down_blocks.0.motion_modules.0.temporal_transformer.norm.weight': [320],
    },
    /SparseCtrl/,
    /ControlNet/,
  ],
  [
    'Hotshot-XL',
    {
      'down_blocks.0.temporal_attentions.0.transformer_blocks.0.attention_blocks.0.to_q.weight': [
        4, 4,
      ],
      'down_blocks.0.temporal_attentions.0.pos_encoder.positional_encoding': [1, 8, 4],
    },
    /Hotshot-XL/,
    /AnimateDiff/,
  ],
  [
    "AnimateDiff's modules for SDXL",
    Object.fromEntries(
      [320, 640, 1280].map((width, i) => [
        `down_blocks.${i}.motion_modules.0.temporal_transformer.norm.weight`,
        [width],
      ]),
    ),
    /made for Stable Diffusion XL/,
    /Stable Diffusion 1 or 2/,
  ],
  [
    'PIA',
    {
      'conv_in.weight': [320, 9, 3, 3],
      'conv_in.bias': [320],
      'down_blocks.0.motion_modules.0.temporal_transformer.norm.weight': [320],
    },
    /PIA/,
    /AnimateDiff/,
  ],
  [
    'ControlNet-LLLite',
    { 'lllite_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.down.0.weight': [4, 4] },
    /LLLite/,
    /Control-LoRA/,
  ],
  [
    'a T2I-Adapter',
    { 'body.0.block1.weight': [4, 4, 3, 3], 'conv_in.weight': [4, 4, 3, 3] },
    /T2I-Adapter/,
    /ControlNet/,
  ],
  [
    'a T2I-Adapter of diffusers',
    { 'adapter.body.0.resnets.0.block1.weight': [4, 4, 3, 3] },
    /T2I-Adapter/,
    /ControlNet/,
  ],
  [
    'an IP-Adapter',
    { 'image_proj.proj.weight': [4, 4], 'ip_adapter.1.to_k_ip.weight': [4, 768] },
    /IP-Adapter/,
    /install a plugin/,
  ],
  [
    'GLIGEN',
    {
      'position_net.linears.0.weight': [4, 4],
      'input_blocks.1.1.transformer_blocks.0.fuser.attn.to_q.weight': [4, 4],
    },
    /GLIGEN/,
    /ControlNet/,
  ],
  ['ESRGAN', { 'model.1.sub.0.RDB1.conv1.0.weight': [4, 4, 3, 3] }, /upscaler/, /upscalers/],
  [
    'Real-ESRGAN',
    { 'body.0.rdb1.conv1.weight': [4, 4, 3, 3], 'conv_first.weight': [4, 3, 3, 3] },
    /upscaler/,
    /upscalers/,
  ],
  [
    'the x4 upscaler',
    {
      'model.diffusion_model.label_emb.weight': [4, 4],
      [`model.diffusion_model.middle_block.1.${block}`]: [4, 1024],
    },
    /x4 upscaler/,
    /plain Stable Diffusion/,
  ],
  [
    'an autoencoder as the original code saves it',
    { 'encoder.down.0.block.0.conv1.weight': [4, 4, 3, 3], 'encoder.conv_in.weight': [4, 3, 3, 3] },
    /autoencoder alone, in the original layout/,
    /diffusers' layout/,
  ],
  [
    'a tiny autoencoder',
    { '1.conv.0.weight': [4, 4, 3, 3] },
    /tiny autoencoder/,
    /AutoencoderTiny/,
  ],
  [
    'CLIP vision',
    { 'vision_model.embeddings.class_embedding': [4] },
    /image encoder/,
    /IP-Adapter/,
  ],
  ['OFT by kohya', { 'lora_unet_mid_block_x.oft_blocks': [2, 2, 2] }, /oft/, /merge it/],
  ['OFT by PEFT', { 'base_model.model.unet.x.oft_R.weight': [2, 2] }, /oft/, /merge it/],
  ['BOFT', { 'base_model.model.mid_block.x.boft_R': [1, 2, 2, 2] }, /boft/, /merge it/],
  ['IA3 by LyCORIS', { 'lora_unet_mid_block_x.on_input': [] }, /ia3/, /merge it/],
  ['IA3 by PEFT', { 'base_model.model.mid_block.x.ia3_l': [4, 1] }, /ia3/, /merge it/],
  ['VeRA', { 'base_model.model.mid_block.x.vera_lambda_b': [4] }, /vera/, /merge it/],
  ['an optimiser', { 'state.0.exp_avg': [4] }, /optimiser/, /weights/],
])('weights that are no adapter of ours: %s', async (_, shapes, reason, fix) => {
  const verdict = await verdictOn(holding(shapes));
  expect(verdict).toMatchObject({ verdict: 'refused', container: 'ok' });
  expect([verdict.reason, verdict.fix]).toEqual([
    expect.stringMatching(reason),
    expect.stringMatching(fix),
  ]);
});
