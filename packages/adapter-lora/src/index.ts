import { adapterKind, definePlugin, inventory, nominalDims } from '@attune/core';
import { z } from 'zod';

import { readLora } from './formats.ts';
import { lora } from './lora.ts';
import { detectLora, surveyLora } from './survey.ts';

export { detectDialect, kohyaName, type LoraFile, readLora } from './formats.ts';
export { lora, type LoraOptions, type Module } from './lora.ts';

/** Options of a fresh LoRA; a file brings its own rank, alpha and targets. */
const Options = z.strictObject({
  rank: z.int().positive().optional(),
  alpha: z.number().positive().optional(),
  targets: z.union([z.string(), z.array(z.string())]).optional(),
});

export default definePlugin({
  api: 1,
  contributes: {
    adapters: {
      lora: adapterKind({
        options: Options,
        detect: detectLora,
        survey: surveyLora,
        create: ({ file, model, ...common }, { rank, alpha, targets }) => {
          if (!file)
            return lora({
              ...common,
              ...(rank === undefined ? {} : { rank }),
              ...(alpha === undefined ? {} : { alpha }),
              ...(targets === undefined ? {} : { targets }),
            });
          const layers = [...inventory(model, nominalDims).sites].flatMap((site) =>
            site.startsWith('layer:') ? [site.slice(6)] : [],
          );
          const { weights, modules, fileKey, fileExtras } = readLora(file, new Set(layers));
          return lora({ ...common, weights, modules, fileKey, fileExtras });
        },
      }),
    },
  },
});
