/** Where pocket's files lie. */

import { fileURLToPath } from 'node:url';

const folder = (name: string) => (): string =>
  fileURLToPath(new URL(`../${name}`, import.meta.url));

/** The bundled model and the judges, in diffusers' layout. */
export const modelsFolder = folder('models');

/** The bundled adapters. */
export const adaptersFolder = folder('adapters');

/** Stacks of the bundled parts: `plain.yaml`, and `aligned.yaml` with the distilled LoRA. */
export const stacksFolder = folder('stacks');

/** This package: where its own plugins are looked for. */
export const homeFolder = folder('.');
