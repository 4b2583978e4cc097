import { adapterKind, baseFamily, checkFile, definePlugin } from '@attune/core';
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
          if (!weights.has(name)) return undefined;
          const base = baseFamily(weights);
          return {
            dialect: 'diffusers',
            algorithm: 'controlnet',
            evidence: name,
            ...(base === undefined ? {} : { base }),
          };
        },
        create: ({ file, model, ...common }, options) =>
          edit({
            ...common,
            config: checkFile(
              EditConfig,
              { ...(file?.config as object), ...options },
              file?.path ?? 'edit',
            ),
            ...(file
              ? { weights: file.weights }
              : {
                  initial: model.weights.renamed((name) =>
                    name.startsWith('unet.') ? name.slice('unet.'.length) : undefined,
                  ),
                }),
          }),
      }),
    },
  },
});
