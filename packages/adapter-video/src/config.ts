/** Configuration of a motion adapter: diffusers' MotionAdapter keys, and our own. */

import { z } from 'zod';

/** A number for every level or one for each; `most` is far above any model's. */
const each = (most: number, least = 0) => {
  const one = z.int().min(least).max(most);
  return z.union([one, z.array(one).min(1).max(12)]);
};
const count = z
  .int()
  .positive()
  .max(2 ** 20);

/** A MotionAdapter's config.json, and our own keys. Options of a stack entry have the same names. */
export const VideoConfig = z.object({
  block_out_channels: z.array(count).min(1).max(12).default([320, 640, 1280, 1280]),
  motion_layers_per_block: each(32).default(2),
  motion_transformer_layers_per_block: each(32).default(1),
  motion_num_attention_heads: each(1024, 1).default(8),
  motion_norm_num_groups: count.default(32),
  motion_max_seq_length: z
    .int()
    .positive()
    .max(2 ** 16)
    .default(32),
  use_motion_mid_block: z.boolean().default(true),
  motion_mid_block_layers_per_block: z.int().nonnegative().max(32).default(1),
  motion_transformer_layers_per_mid_block: each(32).default(1),
  /**
   * What the modules' group norms take their statistics over: all frames of a clip, as diffusers does, or
   * each frame alone, as AnimateDiff's own code does.
   */
  norm: z.enum(['all_frames', 'per_frame']).default('all_frames'),
  /** Ours: condition on the latent of the clip's first frame. */
  first_frame: z.boolean().default(false),
  /** Ours: every frame also attends to the whole first frame, wherever its content has moved to. */
  first_frame_attention: z.boolean().default(false),
  /** Width of the text that the second attention of each block reads; by default it reads the frames. */
  cross_attention_dim: count.optional(),
});
/** A video adapter's config with all defaults filled in. */
export type VideoConfig = z.infer<typeof VideoConfig>;
