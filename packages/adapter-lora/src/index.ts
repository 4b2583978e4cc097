import { adapterKind, definePlugin } from '@attune/core';
import { z } from 'zod';

import { readLora } from './formats.ts';
import { lora } from './lora.ts';
import { mergeLora } from './merge.ts';
import { samples } from './samples.ts';
import { detectLora, surveyLora } from './survey.ts';
import { dialects, writeLora } from './write.ts';

export { type AlgorithmName, factors } from './algorithms.ts';
export { type LoraFile, readLora } from './formats.ts';
export { lora, type LoraOptions, type Module } from './lora.ts';

/** Options of a fresh adapter; a file brings its own algorithm, rank, alpha and targets. */
const Options = z.strictObject({
  algorithm: z.enum(['lora', 'loha', 'lokr', 'full']).optional(),
  /** At most twice what the widest layer of any model is. */
  rank: z
    .int()
    .positive()
    .max(2 ** 14)
    .optional(),
  alpha: z.number().positive().optional(),
  targets: z.union([z.string(), z.array(z.string())]).optional(),
});

/** The options that were given. */
type Given = { [K in keyof z.infer<typeof Options>]?: NonNullable<z.infer<typeof Options>[K]> };

/** The plugin: adapters of the kind `lora`. */
export default definePlugin({
  api: 1,
  contributes: {
    adapters: {
      lora: adapterKind({
        options: Options,
        detect: detectLora,
        survey: surveyLora,
        create: ({ file, model, ...common }, options) =>
          lora({ ...common, ...(file ? readLora(file, model) : (options as Given)) }),
        samples,
        dialects,
        write: writeLora,
        merge: mergeLora,
      }),
    },
  },
});
