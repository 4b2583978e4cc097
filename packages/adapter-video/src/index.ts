import { adapterKind, checkFile, definePlugin } from '@attune/core';
import { z } from 'zod';

import { VideoConfig } from './config.ts';
import {
  animateDiffNoise,
  checkTables,
  diffusersNames,
  hasSd1Widths,
  inferredConfig,
  isOriginal,
} from './original.ts';
import { video } from './video.ts';

export { VideoConfig } from './config.ts';
export { temporalTransformer } from './temporal.ts';
export { video, type VideoOptions } from './video.ts';

/** Options of a stack entry go over the file's config: only what is given, no defaults. */
const Options = z.strictObject(
  Object.fromEntries(
    Object.entries(VideoConfig.shape).map(([key, field]) => [key, field.unwrap().optional()]),
  ),
);

/** A motion module's own weight, not a LoRA on one. */
const ownKey =
  /^((down|up)_blocks\.\d+|mid_block)\.motion_modules\.\d+\.(norm|proj_in|transformer_blocks\.0\.attn1\.to_q)\.weight$/;

export default definePlugin({
  api: 1,
  contributes: {
    adapters: {
      video: adapterKind({
        options: Options,
        detect: ({ weights }) => {
          const known = diffusersNames(weights);
          const names = [...known.names()];
          const evidence = names.find((key) => ownKey.test(key));
          if (evidence === undefined) return undefined;
          return {
            dialect: isOriginal(weights) ? 'animatediff' : 'diffusers',
            algorithm: 'motion',
            evidence,
            ...(hasSd1Widths(known) ? { base: 'sd1' } : {}),
          };
        },
        create: ({ file, model: { latents }, ...common }, options) => {
          const weights = file && diffusersNames(file.weights);
          if (file) checkTables(file.weights);
          const told = file?.config ?? (weights && inferredConfig(weights));
          return video({
            ...common,
            config: checkFile(
              VideoConfig,
              { ...(told as object), ...options },
              file?.path ?? 'video',
            ),
            ...(latents ? { channels: latents.channels } : {}),
            ...(weights ? { weights } : {}),
            ...(weights && (isOriginal(file.weights) || hasSd1Widths(weights))
              ? { trainedWith: animateDiffNoise }
              : {}),
          });
        },
      }),
    },
  },
});
