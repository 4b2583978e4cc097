/** What a command works with: the plugins in reach and a runtime, from the container. */

import { fileURLToPath } from 'node:url';

import {
  createContainer,
  findPlugins,
  LoaderToken,
  type PluginLoader,
  RuntimeToken,
} from '@attune/core';
import type { Runtime, RuntimeOptions } from '@attune/engine';

export interface CommandSession {
  readonly loader: PluginLoader;
  readonly runtime: Runtime;
}

/**
 * Plugins of this package (the built-in ones), of the project around a stack's `folder` and at its
 * `paths`, of the project around the working directory. Of two with one name the first counts.
 */
export function openSession(
  runtime: RuntimeOptions = {},
  { folder = process.cwd(), paths = [] as readonly string[] } = {},
): CommandSession {
  const found = [
    ...findPlugins(fileURLToPath(new URL('..', import.meta.url))),
    ...findPlugins(folder, paths),
    ...findPlugins(process.cwd()),
  ];
  const names = found.map(({ package: name }) => name);
  const container = createContainer(
    found.filter((_, i) => names.indexOf(names[i]) === i),
    runtime,
  );
  return { loader: container.get(LoaderToken), runtime: container.get(RuntimeToken) };
}
