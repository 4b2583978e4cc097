import { adapterKind, checkFile, definePlugin } from '@attune/core';

import { VideoConfig } from './config.ts';
import { video } from './video.ts';

export { VideoConfig } from './config.ts';
export { temporalTransformer } from './temporal.ts';
export { video, type VideoOptions } from './video.ts';

export default definePlugin({
  api: 1,
  contributes: {
    adapters: {
      video: adapterKind({
        options: VideoConfig.partial(),
        detect: ({ weights }) => {
          const name = [...weights.names()].find((key) => key.includes('.motion_modules.'));
          return name === undefined ? undefined : { dialect: 'diffusers', evidence: name };
        },
        create: ({ file, model: _, ...common }, options) =>
          video({
            ...common,
            config: checkFile(
              VideoConfig,
              { ...(file?.config as object), ...options },
              file?.path ?? 'video',
            ),
            ...(file ? { weights: file.weights } : {}),
          }),
      }),
    },
  },
});
