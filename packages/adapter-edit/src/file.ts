/** A ControlNet's file in any form and layout. */

import { type AdapterFile, type Model, UNetConfig } from '@attune/core';
import type { Weights } from '@attune/engine';

import { completed, inferredConfig, readOriginal } from './original.ts';

/** The weights of a file in any of its forms, and its config: the file's own, or what it tells. */
export function readControl(
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
