import { adapterKind, checkFile, definePlugin } from '@attune/core';
import { z } from 'zod';

import { VideoConfig } from './config.ts';
import { readMotion } from './file.ts';
import {
  animateDiffNoise,
  diffusersNames,
  familyOf,
  hasSd1Widths,
  isOriginal,
} from './original.ts';
import { video } from './video.ts';
import { dialects, writeMotion } from './write.ts';

export { VideoConfig } from './config.ts';
export { temporalTransformer } from './temporal.ts';
export { video, type VideoOptions } from './video.ts';

/** Options of a stack entry go over the file's config: only what is given, no defaults. */
const Options = z.strictObject(
  Object.fromEntries(
    Object.entries(VideoConfig.shape).map(([key, field]) => [key, field.unwrap().optional()]),
  ),
);

/** Files that have motion modules among other things: SparseCtrl; PIA, whose first convolution is a whole layer. */
const ofOthers = /(^|\.)controlnet_|^conv_in\.bias$/;

/** A motion module's own weight, not a LoRA on one. */
const ownKey =
  /^((down|up)_blocks\.\d+|mid_block)\.motion_modules\.\d+\.(norm|proj_in|transformer_blocks\.0\.attn1\.to_q)\.weight$/;

const norms = {
  all_frames: 'over all frames of a clip, as diffusers does',
  per_frame: "over each frame alone, as AnimateDiff's own code does",
};

/** How the group norms of a file are taken, which no layout but our own config tells. */
function normText(config: unknown): string {
  const { norm } = Object(config) as { norm?: unknown };
  const [taken, other] =
    norm === 'per_frame'
      ? (['per_frame', 'all_frames'] as const)
      : (['all_frames', 'per_frame'] as const);
  return `group norms ${norms[taken]} (norm: ${other} in the stack entry: ${norms[other]})`;
}

const module = 'mid_block.motion_modules.0';

const samples = [
  {
    keys: [`${module}.transformer_blocks.0.attn1.to_q.weight`],
    about: 'a MotionAdapter: a folder with its config, or the file alone',
  },
  {
    keys: [`${module}.temporal_transformer.transformer_blocks.0.attention_blocks.0.to_q.weight`],
    about: 'AnimateDiff v1, v2 and v3, also with `module.`; the stored position table counts',
  },
];

/** The plugin: adapters of the kind `video`. */
export default definePlugin({
  api: 1,
  contributes: {
    adapters: {
      video: adapterKind({
        options: Options,
        detect: ({ weights, config }) => {
          const known = diffusersNames(weights);
          const names = [...known.names()];
          const evidence = names.find((key) => ownKey.test(key));
          if (evidence === undefined || names.some((key) => ofOthers.test(key))) return undefined;
          const base = familyOf(known);
          return {
            dialect: isOriginal(weights) ? 'animatediff' : 'diffusers',
            algorithm: 'motion',
            evidence,
            ...(base === undefined ? {} : { base }),
            chosen: normText(config),
          };
        },
        create: ({ file, model: { latents }, ...common }, options) => {
          const read = file && readMotion(file, options);
          return video({
            ...common,
            config: read?.config ?? checkFile(VideoConfig, options, 'video'),
            ...(latents ? { channels: latents.channels } : {}),
            ...(read ? { weights: read.weights } : {}),
            ...(read && (isOriginal(file.weights) || hasSd1Widths(read.weights))
              ? { trainedWith: animateDiffNoise }
              : {}),
          });
        },
        samples,
        dialects,
        write: writeMotion,
      }),
    },
  },
});
