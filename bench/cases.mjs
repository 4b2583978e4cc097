/** What is timed on both sides. `rows` images of `latent` × `latent` latents, `tokens` text tokens each. */

const pocket = {
  block_out_channels: [64, 96, 128],
  down_block_types: ['CrossAttnDownBlock2D', 'CrossAttnDownBlock2D', 'DownBlock2D'],
  up_block_types: ['UpBlock2D', 'CrossAttnUpBlock2D', 'CrossAttnUpBlock2D'],
  layers_per_block: 1,
  attention_head_dim: [2, 3, 4],
  cross_attention_dim: 96,
  in_channels: 12,
  out_channels: 12,
  sample_size: 16,
  use_linear_projection: true,
};

const sd15 = {
  block_out_channels: [320, 640, 1280, 1280],
  down_block_types: [
    'CrossAttnDownBlock2D',
    'CrossAttnDownBlock2D',
    'CrossAttnDownBlock2D',
    'DownBlock2D',
  ],
  up_block_types: ['UpBlock2D', 'CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'CrossAttnUpBlock2D'],
  layers_per_block: 2,
  attention_head_dim: 8,
  cross_attention_dim: 768,
  in_channels: 4,
  out_channels: 4,
  sample_size: 64,
};

/** `goal`: PyTorch's time over ours. `micro`: rows at once on our side, as our recipes have it. */
export const cases = [
  {
    name: 'forward-pocket',
    about: 'UNet forward, pocket, a clip of 8 frames',
    work: 'forward',
    unet: pocket,
    rows: 8,
    latent: 16,
    tokens: 24,
    goal: 1,
  },
  {
    name: 'forward-sd15',
    about: 'UNet forward, SD 1.5, 2 × 256 px',
    work: 'forward',
    unet: sd15,
    rows: 2,
    latent: 32,
    tokens: 77,
    goal: 0.95,
  },
  {
    name: 'lora-pocket',
    about: 'LoRA training step, pocket, batch 16',
    work: 'lora',
    unet: pocket,
    rows: 16,
    micro: 8,
    latent: 16,
    tokens: 24,
    goal: 1,
  },
  {
    name: 'lora-sd15',
    about: 'LoRA training step, SD 1.5, batch 1, 256 px',
    work: 'lora',
    unet: sd15,
    rows: 1,
    micro: 1,
    latent: 32,
    tokens: 77,
    goal: 0.9,
  },
  {
    name: 'train-pocket',
    about: 'training step from scratch, pocket, batch 32',
    work: 'train',
    unet: pocket,
    rows: 32,
    micro: 8,
    latent: 16,
    tokens: 24,
    goal: 0.7,
  },
];
