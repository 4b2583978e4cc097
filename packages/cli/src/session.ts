/** What a command works with: the plugins in reach and a runtime, from the container. */

import { fileURLToPath } from 'node:url';

import {
  createContainer,
  LoaderToken,
  type PackagePlace,
  packagePlaces,
  type PluginLoader,
  readPackage,
  readPlugin,
  RuntimeToken,
} from '@attune/core';
import type { Runtime, RuntimeOptions } from '@attune/engine';

export interface CommandSession {
  readonly loader: PluginLoader;
  readonly runtime: Runtime;
}

/** Where a command looks for plugins beside its own. */
export interface Surroundings {
  /** Of a stack file or a recipe. */
  readonly folder?: string;
  /** A stack's `plugins`, relative to its folder. */
  readonly paths?: readonly string[];
}

/** A package in reach and what brings it: this command, a stack's surroundings, the working directory's. */
export interface ReachedPackage extends PackagePlace {
  readonly from: 'attune' | 'stack' | 'project';
}

/** The folder of this package. */
const ownFolder = fileURLToPath(new URL('..', import.meta.url));

/** As its package.json says. */
export const ownVersion = (): string => (readPackage(ownFolder) as { version: string }).version;

/** The packages in which a command looks for plugins, in the order in which they count. */
export function packagesInReach({ folder, paths = [] }: Surroundings = {}): ReachedPackage[] {
  const here = process.cwd();
  const found = new Map<string, ReachedPackage>();
  const add = (from: ReachedPackage['from'], places: readonly PackagePlace[]): void => {
    for (const place of places)
      if (!found.has(place.folder)) found.set(place.folder, { ...place, from });
  };
  add('attune', packagePlaces(ownFolder));
  if (folder !== undefined) add('stack', packagePlaces(folder, paths));
  add('project', packagePlaces(here));
  return [...found.values()];
}

let offline = false;

/** Whether plugins that declare the use of the network are refused from now on (`--offline`). */
export function goOffline(value: boolean): void {
  offline = value;
}

export const isOffline = (): boolean => offline;

/**
 * Plugins of this package (the built-in ones), of the project around a stack's `folder` and at its
 * `paths`, of the project around the working directory. Of two with one name the first counts.
 */
export function openSession(
  runtime: RuntimeOptions = {},
  surroundings: Surroundings = {},
): CommandSession {
  const found = packagesInReach(surroundings).flatMap(({ folder }) => readPlugin(folder) ?? []);
  const names = found.map(({ package: name }) => name);
  const container = createContainer(
    found.filter((_, i) => names.indexOf(names[i]) === i),
    runtime,
    { offline },
  );
  return { loader: container.get(LoaderToken), runtime: container.get(RuntimeToken) };
}
