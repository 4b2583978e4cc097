import { adapterKind, checkFile, definePlugin } from '@attune/core';
import { z } from 'zod';

import { EditConfig } from './config.ts';
import { edit } from './edit.ts';

export { EditConfig } from './config.ts';
export { edit, type EditOptions } from './edit.ts';

export default definePlugin({
  api: 1,
  contributes: {
    adapters: {
      edit: adapterKind({
        options: z.looseObject({}),
        detect: ({ weights }) => {
          const name = 'controlnet_cond_embedding.conv_in.weight';
          return weights.has(name) ? { dialect: 'diffusers', evidence: name } : undefined;
        },
        create: ({ file, model: _, ...common }, options) =>
          edit({
            ...common,
            config: checkFile(
              EditConfig,
              { ...(file?.config as object), ...options },
              file?.path ?? 'edit',
            ),
            ...(file ? { weights: file.weights } : {}),
          }),
      }),
    },
  },
});
