/** A file of motion modules in any layout: its weights under diffusers' names, and their config. */

import { type AdapterFile, checkFile } from '@attune/core';
import type { Weights } from '@attune/engine';

import { VideoConfig } from './config.ts';
import { checkTables, diffusersNames, inferredConfig } from './original.ts';

/**
 * The config is the one beside the file, or what names and shapes tell; `options` go over it.
 *
 * @throws TWO_TABLES, BAD_CONFIG
 */
export function readMotion(
  file: AdapterFile,
  options: Partial<VideoConfig> = {},
): { readonly weights: Weights; readonly config: VideoConfig } {
  checkTables(file);
  const weights = diffusersNames(file.weights);
  const told = file.config ?? inferredConfig(weights);
  const config = checkFile(VideoConfig, { ...told, ...options }, file.path);
  return { weights, config };
}
