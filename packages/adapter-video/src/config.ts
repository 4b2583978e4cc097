/** Configuration of a motion adapter: diffusers' MotionAdapter keys, and our own. */

import { z } from 'zod';

/** A MotionAdapter's config.json, and our own keys. Options of a stack entry have the same names. */
export const VideoConfig = z.object({
  block_out_channels: z.array(z.int().positive()).default([320, 640, 1280, 1280]),
  motion_layers_per_block: z.union([z.int(), z.array(z.int())]).default(2),
  motion_transformer_layers_per_block: z.union([z.int(), z.array(z.int())]).default(1),
  motion_num_attention_heads: z.union([z.int(), z.array(z.int())]).default(8),
  motion_norm_num_groups: z.int().positive().default(32),
  motion_max_seq_length: z.int().positive().default(32),
  use_motion_mid_block: z.boolean().default(true),
  motion_mid_block_layers_per_block: z.int().default(1),
  motion_transformer_layers_per_mid_block: z.union([z.int(), z.array(z.int())]).default(1),
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
  cross_attention_dim: z.int().positive().optional(),
});
/** A video adapter's config with all defaults filled in. */
export type VideoConfig = z.infer<typeof VideoConfig>;
