/** Packages on disk: where those of a project lie, which of them are plugins, what their main file is. */

import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';

import { AttuneError } from '@attune/engine';

import { type FoundPlugin, readManifest } from './manifest.ts';

/** A package in reach, and how it came there: the project itself, a dependency of it, a path given. */
export interface PackagePlace {
  readonly folder: string;
  readonly via: 'project' | 'dependency' | 'path';
}

/** The nearest package above `from`, its direct dependencies that are installed, and those at `paths`. */
export function packagePlaces(from: string, paths: readonly string[] = []): PackagePlace[] {
  const found = new Map<string, PackagePlace>();
  const add = (folder: string, via: PackagePlace['via']): void => {
    if (!found.has(folder)) found.set(folder, { folder, via });
  };
  const project = nearestProject(resolve(from));
  if (project) {
    add(project, 'project');
    const json = readPackage(project) as {
      dependencies?: object;
      devDependencies?: object;
      optionalDependencies?: object;
    };
    const names = [json.dependencies, json.devDependencies, json.optionalDependencies].flatMap(
      (group) => Object.keys(group ?? {}),
    );
    for (const name of names) {
      const folder = installedFolder(name, project);
      if (folder) add(folder, 'dependency');
    }
  }
  for (const path of paths) {
    const folder = resolve(from, path);
    if (!existsSync(join(folder, 'package.json')))
      throw new AttuneError('PLUGIN_PATH', `The plugin path ${folder} has no package.json.`, {
        folder,
      });
    add(folder, 'path');
  }
  return [...found.values()];
}

/** Plugins among the direct dependencies of the nearest package.json above `from`, and at `paths`. */
export const findPlugins = (from: string, paths: readonly string[] = []): FoundPlugin[] =>
  packagePlaces(from, paths).flatMap(({ folder }) => readPlugin(folder) ?? []);

/** The plugin that a package declares, or undefined where it declares none; a bad manifest is an error. */
export const readPlugin = (folder: string): FoundPlugin | undefined =>
  readManifest(readPackage(folder), folder);

/** Where a package is installed for code in `from`: in the nearest `node_modules` above that has it. */
export function installedFolder(name: string, from: string): string | undefined {
  const folder = join(from, 'node_modules', name);
  if (existsSync(join(folder, 'package.json'))) return folder;
  const parent = dirname(from);
  return parent === from ? undefined : installedFolder(name, parent);
}

/** The main file of a package: what `import` of its name gives, wherever its folder lies. */
export function entryOf(json: unknown): string {
  const { exports, main } = Object(json) as { exports?: unknown; main?: unknown };
  const root = Object(exports) as { '.'?: unknown };
  const found = exported(root['.'] ?? exports) ?? main;
  return typeof found === 'string' ? found : 'index.js';
}

/** The target of an `exports` entry under the conditions of Node's `import`. */
function exported(entry: unknown): string | undefined {
  if (typeof entry === 'string') return entry;
  for (const [condition, target] of Object.entries(Object(entry) as object))
    if (['node', 'import', 'default'].includes(condition)) {
      const found = exported(target);
      if (found !== undefined) return found;
    }
  return undefined;
}

function nearestProject(folder: string): string | undefined {
  if (existsSync(join(folder, 'package.json'))) return folder;
  const parent = dirname(folder);
  return parent === folder ? undefined : nearestProject(parent);
}

/** The parsed package.json of a folder. */
export function readPackage(folder: string): unknown {
  const file = join(folder, 'package.json');
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new AttuneError('BAD_JSON', `${file} cannot be read: ${reason}.`, { file });
  }
}
