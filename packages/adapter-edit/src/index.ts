import { adapterKind, baseFamily, checkFile, definePlugin } from '@attune/core';
import { z } from 'zod';

import { EditConfig } from './config.ts';
import { edit } from './edit.ts';
import { diffusersNames, inferredConfig } from './original.ts';

export { EditConfig } from './config.ts';
export { edit, type EditOptions } from './edit.ts';

export default definePlugin({
  api: 1,
  contributes: {
    adapters: {
      edit: adapterKind({
        options: z.looseObject({}),
        detect: ({ weights }) => {
          const renamed = diffusersNames(weights);
          const known = renamed ?? weights;
          const name = 'controlnet_cond_embedding.conv_in.weight';
          if (!known.has(name)) return undefined;
          const base = baseFamily(known);
          return {
            dialect: renamed ? 'ldm' : 'diffusers',
            algorithm: 'controlnet',
            evidence: renamed ? 'input_hint_block.0.weight' : name,
            ...(base === undefined ? {} : { base }),
          };
        },
        create: ({ file, model, ...common }, options) => {
          const weights = file && (diffusersNames(file.weights) ?? file.weights);
          const told = file?.config ?? (weights && inferredConfig(weights));
          return edit({
            ...common,
            config: checkFile(
              EditConfig,
              { ...(told as object), ...options },
              file?.path ?? 'edit',
            ),
            ...(weights
              ? { weights }
              : {
                  initial: model.weights.renamed((name) =>
                    name.startsWith('unet.') ? name.slice('unet.'.length) : undefined,
                  ),
                }),
          });
        },
      }),
    },
  },
});
