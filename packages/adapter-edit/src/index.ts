import {
  type AdapterFile,
  adapterKind,
  baseFamily,
  checkFile,
  definePlugin,
  type Model,
  UNetConfig,
} from '@attune/core';
import type { Weights } from '@attune/engine';
import { z } from 'zod';

import { EditConfig } from './config.ts';
import { edit } from './edit.ts';
import { completed, inferredConfig, readOriginal } from './original.ts';

export { EditConfig } from './config.ts';
export { edit, type EditOptions } from './edit.ts';

/** Options of a stack entry go over the file's config: only what is given, no defaults. */
const Options = z.strictObject(
  Object.fromEntries(
    Object.entries(EditConfig.shape).map(([key, field]) => [
      key,
      (field instanceof z.ZodDefault ? field.unwrap() : field).optional(),
    ]),
  ),
);

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
          if (!known.has(name)) return undefined;
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
          const found = file ? read(file, model) : undefined;
          const config = { ...(found?.config as object), ...options };
          return edit({
            ...common,
            config: checkFile(EditConfig, config, file?.path ?? 'edit'),
            ...(found ? { weights: found.weights } : { initial: model.weights.under('unet.') }),
          });
        },
      }),
    },
  },
});

/** The weights of a file in any of its forms, and its config: the file's own, or what it tells. */
function read(
  { weights, config }: AdapterFile,
  model: Model,
): { readonly weights: Weights; readonly config: unknown } {
  const original = readOriginal(weights);
  if (!original) return { weights, config: config ?? inferredConfig(weights) };
  const whole = completed(original, model.weights.under('unet.'));
  // What changes the base's encoder has the base's settings, also those that no shape tells.
  const told = original.form === 'whole' ? {} : encoderSettings(model);
  return { weights: whole, config: config ?? { ...inferredConfig(whole), ...told } };
}

function encoderSettings({ configs }: Model): Record<string, unknown> {
  const unet = (configs?.unet ?? {}) as Record<string, unknown>;
  const keys = Object.keys(UNetConfig.shape).filter(
    (key) => key in unet && !/^(up_|out_)/.test(key),
  );
  return Object.fromEntries(keys.map((key) => [key, unet[key]]));
}
