/** Configuration of an edit adapter: diffusers' ControlNetModel keys, and our own. */

import { UNetConfig } from '@attune/core';
import { z } from 'zod';

/** A ControlNetModel's config.json, and our own keys. Options of a stack entry have the same names. */
export const EditConfig = UNetConfig.extend({
  conditioning_embedding_out_channels: z
    .array(
      z
        .int()
        .positive()
        .max(2 ** 16),
    )
    .min(1)
    .max(12)
    .default([16, 32, 96, 256]),
  conditioning_channels: z
    .int()
    .positive()
    .max(2 ** 10)
    .default(3),
  controlnet_conditioning_channel_order: z.enum(['rgb', 'bgr']).default('rgb'),
  /**
   * What it adds is the same everywhere: its mean over the pixels, and under guidance only in the full
   * condition, both as diffusers does.
   */
  global_pool_conditions: z.boolean().default(false),
  /**
   * What it adds grows from a tenth at the first skip to the whole in the middle, and under guidance it adds
   * that only in the full condition, as in diffusers' guess mode. With `global_pool_conditions` it does not grow.
   */
  guess_mode: z.boolean().default(false),
  /** The values of the image that it was trained on; the port `image` is in [0, 1] whatever this says. */
  hint_range: z.enum(['unit', 'signed']).default('unit'),
  /** Number of task labels (port `task`), added to the time embedding; absent: none. */
  num_class_embeds: z
    .int()
    .positive()
    .max(2 ** 20)
    .nullish(),
});
/** An edit adapter's config with all defaults filled in. */
export type EditConfig = z.infer<typeof EditConfig>;
