import { adapterKind, baseFamily, checkFile, definePlugin } from '@attune/core';
import { z } from 'zod';

import { EditConfig } from './config.ts';
import { edit } from './edit.ts';
import { readControl } from './file.ts';
import { readOriginal } from './original.ts';
import { dialects, writeControl } from './write.ts';

export { EditConfig } from './config.ts';
export { edit, type EditOptions } from './edit.ts';

const first = 'input_blocks.0.0.weight';
const hint = 'input_hint_block.0.weight';

const samples = [
  {
    keys: ['controlnet_cond_embedding.conv_in.weight'],
    about: 'a folder with its config, or the file alone',
  },
  {
    keys: [`control_model.${hint}`, `control_model.${first}`],
    about: 'with `control_model.` or bare; also inside a whole checkpoint',
  },
  {
    keys: ['difference', `control_model.${hint}`, `control_model.${first}`],
    about: "what is added to the base's encoder",
  },
  {
    keys: ['lora_controlnet', hint, 'input_blocks.1.0.in_layers.2.up'],
    about: "low-rank changes of the base's encoder",
  },
];

/** Options of a stack entry go over the file's config: only what is given, no defaults. */
const Options = z.strictObject(
  Object.fromEntries(
    Object.entries(EditConfig.shape).map(([key, field]) => [
      key,
      (field instanceof z.ZodDefault ? field.unwrap() : field).optional(),
    ]),
  ),
);

/** The plugin: adapters of the kind `edit`. */
export default definePlugin({
  api: 1,
  contributes: {
    adapters: {
      edit: adapterKind({
        options: Options,
        detect: ({ weights }) => {
          const original = readOriginal(weights);
          const known = original?.weights ?? weights;
          const name = 'controlnet_cond_embedding.conv_in.weight';
          // With motion modules it is SparseCtrl.
          if (!known.has(name) || [...known.names()].some((key) => key.includes('motion_modules.')))
            return undefined;
          const base = baseFamily(known);
          const algorithms = { whole: 'controlnet', difference: 'controlnet difference' };
          return {
            dialect: original ? 'ldm' : 'diffusers',
            algorithm:
              original?.form === 'control-lora'
                ? 'control-lora'
                : algorithms[original?.form ?? 'whole'],
            evidence: original ? 'input_hint_block.0.weight' : name,
            ...(base === undefined ? {} : { base }),
          };
        },
        create: ({ file, model, ...common }, options) => {
          const found = file ? readControl(file, model) : undefined;
          const config = { ...(found?.config as object), ...options };
          return edit({
            ...common,
            config: checkFile(EditConfig, config, file?.path ?? 'edit'),
            ...(found ? { weights: found.weights } : { initial: model.weights.under('unet.') }),
          });
        },
        samples,
        dialects,
        write: writeControl,
      }),
    },
  },
});
