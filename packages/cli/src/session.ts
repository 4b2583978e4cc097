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

/** Plugins of this package (the built-in ones), of the project around `cwd`, and at `paths`. */
export function openSession(
  runtime: RuntimeOptions = {},
  { cwd = process.cwd(), paths = [] as readonly string[] } = {},
): CommandSession {
  const own = findPlugins(fileURLToPath(new URL('..', import.meta.url)));
  const seen = new Set(own.map(({ package: name }) => name));
  const others = findPlugins(cwd, paths).filter(({ package: name }) => !seen.has(name));
  const container = createContainer([...own, ...others], runtime);
  return { loader: container.get(LoaderToken), runtime: container.get(RuntimeToken) };
}
