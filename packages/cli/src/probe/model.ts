/** A stack opened for probing: every weight there, every weight asked for. */

import {
  inventory,
  materialize,
  type Model,
  nominalDims,
  openStack,
  type PluginLoader,
} from '@attune/core';
import { AttuneError } from '@attune/engine';

import { stackMedia } from '../stack-media.ts';
import { type StackArgument, stackWarnings } from '../stack.ts';
import { warn } from '../terminal.ts';

export async function openWhole(
  argument: StackArgument,
  loader: PluginLoader,
  { allowPartial = false }: { readonly allowPartial?: boolean } = {},
): Promise<Model> {
  for (const warning of stackWarnings(argument)) warn(warning);
  return completed(
    await openStack(argument.stack, argument.folder, loader, {
      ...stackMedia,
      onWarning: warn,
      allowPartial,
    }),
  );
}

/** A stack's model with every weight there, or an error that names what is missing. */
export function completed(model: Model): Model {
  const { params } = inventory(model, nominalDims);
  const adapters = model.adapters.map(({ name }) => `${name}.`);
  const missing = [...params.keys()].filter(
    (name) => !model.weights.has(name) && !adapters.some((own) => name.startsWith(own)),
  );
  if (missing.length)
    throw new AttuneError(
      'MISSING_WEIGHT',
      `The backbone lacks ${missing.length} weights, first ${missing[0]}: its config asks for layers that its files do not hold.`,
      { missing },
    );
  return materialize(model, { dims: nominalDims });
}
