/** Finds plugins by their manifests and imports the code of those in use. */

import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

import { AttuneError, nearest } from '@attune/engine';

import { checkFile } from '../stack/schema.ts';
import { apiVersion, type ContributionKind, type FoundPlugin, readManifest } from './manifest.ts';
import type { Plugin, PluginContributions } from './plugin.ts';

/** Built-in ids may leave this scope out, and `pocket` is short for `pocket/pocket`. */
const ownScope = 'attune';

const shortId = (id: string): string => {
  const [scope, name] = id.split('/');
  return scope === ownScope || scope === name ? name : id;
};

type Contribution<K extends ContributionKind> = K extends keyof PluginContributions
  ? NonNullable<PluginContributions[K]>[string]
  : never;

/** The plugins of a project. Manifests are read at once, code at first use. */
export class PluginLoader {
  readonly plugins: readonly FoundPlugin[];
  readonly #owners = new Map<string, FoundPlugin>();
  readonly #code = new Map<FoundPlugin, Promise<Plugin>>();

  /** Ids that two plugins claim are an error naming both. */
  constructor(plugins: readonly FoundPlugin[]) {
    this.plugins = plugins;
    for (const plugin of plugins)
      for (const [kind, names] of Object.entries(plugin.manifest.contributes))
        for (const name of names) {
          const id = `${kind}:${plugin.manifest.scope}/${name}`;
          const other = this.#owners.get(id);
          if (other)
            throw new AttuneError(
              'PLUGIN_DUPLICATE',
              `${plugin.manifest.scope}/${name} is contributed by both ${other.package} (${other.folder}) and ${plugin.package} (${plugin.folder}): remove one.`,
              { id, packages: [other.package, plugin.package] },
            );
          this.#owners.set(id, plugin);
        }
  }

  /** Ids of one kind, as short as they may be written. */
  ids(kind: ContributionKind): string[] {
    return [...this.#owners.keys()]
      .filter((id) => id.startsWith(`${kind}:`))
      .map((id) => shortId(id.slice(kind.length + 1)));
  }

  /** The contribution behind an id (`lora`, `scope/name`), importing its plugin if need be. */
  async get<K extends ContributionKind>(kind: K, id: string): Promise<Contribution<K>> {
    const full = [id, `${ownScope}/${id}`, `${id}/${id}`].find((name) =>
      this.#owners.has(`${kind}:${name}`),
    );
    const owner = this.#owners.get(`${kind}:${full}`);
    if (!owner || !full)
      throw new AttuneError(
        'UNKNOWN_ID',
        `No plugin contributes ${kind} "${id}"; known: ${this.ids(kind).join(', ') || 'none'}; nearest: ${nearest(id, this.ids(kind), 1).join() || 'none'}.`,
        { kind, id },
      );
    const plugin = await this.#import(owner);
    const name = full.slice(full.indexOf('/') + 1);
    const value = (plugin.contributes as Record<string, Record<string, unknown> | undefined>)[
      kind
    ]?.[name];
    if (!value)
      throw new AttuneError(
        'PLUGIN_MANIFEST',
        `The plugin ${owner.package} declares ${kind} "${name}" in package.json, but its code does not contribute it.`,
        { plugin: owner.package, kind, name },
      );
    return value as Contribution<K>;
  }

  /** A contribution that a recipe names with `use`, and the keys beside it, checked; `where` they stand. */
  async configured<K extends 'data' | 'objectives' | 'samplers' | 'suites'>(
    kind: K,
    { use, ...given }: { readonly use: string },
    where: string,
  ): Promise<{ readonly kind: Contribution<K>; readonly options: unknown }> {
    const found = await this.get(kind, use);
    return { kind: found, options: checkFile(found.options, given, where) };
  }

  #import(owner: FoundPlugin): Promise<Plugin> {
    let code = this.#code.get(owner);
    if (!code) this.#code.set(owner, (code = load(owner)));
    return code;
  }
}

async function load(owner: FoundPlugin): Promise<Plugin> {
  try {
    const entry = join(owner.folder, entryOf(readJson(join(owner.folder, 'package.json'))));
    const module = (await import(pathToFileURL(entry).href)) as { default?: Plugin };
    const plugin = module.default;
    if (!plugin?.contributes) throw new TypeError('it has no default export from definePlugin');
    if (plugin.api !== apiVersion) throw new TypeError(`its code speaks api ${plugin.api}`);
    return plugin;
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new AttuneError(
      'PLUGIN_LOAD',
      `The plugin ${owner.package}@${owner.version} (${owner.folder}) cannot be loaded: ${reason}.`,
      { plugin: owner.package, reason },
    );
  }
}

/** The main file of a package: what `import` of its name gives, wherever its folder lies. */
function entryOf(json: unknown): string {
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

/** Plugins among the direct dependencies of the nearest package.json above `from`, and at `paths`. */
export function findPlugins(from: string, paths: readonly string[] = []): FoundPlugin[] {
  const found = new Map<string, FoundPlugin>();
  const add = (folder: string): void => {
    const plugin = readManifest(readJson(join(folder, 'package.json')), folder);
    if (plugin) found.set(plugin.folder, plugin);
  };
  const project = nearestProject(resolve(from));
  if (project) {
    add(project);
    const json = readJson(join(project, 'package.json')) as {
      dependencies?: object;
      devDependencies?: object;
      optionalDependencies?: object;
    };
    const names = [json.dependencies, json.devDependencies, json.optionalDependencies].flatMap(
      (group) => Object.keys(group ?? {}),
    );
    for (const name of names) {
      const folder = join(project, 'node_modules', name);
      if (existsSync(join(folder, 'package.json'))) add(folder);
    }
  }
  for (const path of paths) {
    const folder = resolve(from, path);
    if (!existsSync(join(folder, 'package.json')))
      throw new AttuneError('PLUGIN_PATH', `The plugin path ${folder} has no package.json.`, {
        folder,
      });
    add(folder);
  }
  return [...found.values()];
}

function nearestProject(folder: string): string | undefined {
  if (existsSync(join(folder, 'package.json'))) return folder;
  const parent = dirname(folder);
  return parent === folder ? undefined : nearestProject(parent);
}

function readJson(file: string): unknown {
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new AttuneError('BAD_JSON', `${file} cannot be read: ${reason}.`, { file });
  }
}
