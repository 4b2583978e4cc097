/** The plugins of a project by id; the code of those in use is imported. */

import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

import { AttuneError, nearest } from '@attune/engine';

import { checkFile } from '../stack/schema.ts';
import { attributed } from './hooks.ts';
import { apiVersion, type ContributionKind, type FoundPlugin, speaks } from './manifest.ts';
import { entryOf, readPackage } from './package.ts';
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

/** What a loader refuses. */
export interface LoaderOptions {
  /** Refuse the code of plugins that declare the capability `network`. */
  readonly offline?: boolean;
}

/** The plugins of a project. Manifests are read at once, code at first use. */
export class PluginLoader {
  readonly plugins: readonly FoundPlugin[];
  readonly #offline: boolean;
  readonly #owners = new Map<string, FoundPlugin>();
  readonly #code = new Map<FoundPlugin, Promise<Plugin>>();
  readonly #loaded = new Map<string, object>();

  /** Ids that two plugins claim are an error naming both. */
  constructor(plugins: readonly FoundPlugin[], { offline = false }: LoaderOptions = {}) {
    this.plugins = plugins;
    this.#offline = offline;
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

  /** The plugin behind an id (`lora`, `scope/name`), and the id in full. */
  owner(kind: ContributionKind, id: string): { readonly plugin: FoundPlugin; readonly id: string } {
    const full = [id, `${ownScope}/${id}`, `${id}/${id}`].find((name) =>
      this.#owners.has(`${kind}:${name}`),
    );
    const owner = this.#owners.get(`${kind}:${full}`);
    if (!owner || !full)
      throw new AttuneError(
        'UNKNOWN_ID',
        `No plugin contributes ${kind} "${id}"; known: ${this.ids(kind).join(', ') || 'none'}; nearest: ${nearest(id, this.ids(kind), 1).join() || 'none'}.${id.includes('/') ? ' Nothing is installed by itself: add the package that contributes it to the project.' : ''}`,
        { kind, id },
      );
    return { plugin: owner, id: full };
  }

  /** The contribution behind an id, importing its plugin if need be. */
  async get<K extends ContributionKind>(kind: K, id: string): Promise<Contribution<K>> {
    const { plugin: owner, id: full } = this.owner(kind, id);
    const known = this.#loaded.get(`${kind}:${full}`);
    if (known) return known as Contribution<K>;
    const plugin = await this.#import(owner);
    const name = full.slice(full.indexOf('/') + 1);
    const value = (plugin.contributes as Record<string, Record<string, object> | undefined>)[
      kind
    ]?.[name];
    if (!value)
      throw new AttuneError(
        'PLUGIN_MANIFEST',
        `The plugin ${owner.package} declares ${kind} "${name}" in package.json, but its code does not contribute it.`,
        { plugin: owner.package, kind, name },
      );
    const own = attributed(value, owner, `${kind} ${shortId(full)}`);
    this.#loaded.set(`${kind}:${full}`, own);
    return own as Contribution<K>;
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
    if (!code) this.#code.set(owner, (code = this.#load(owner)));
    return code;
  }

  async #load(owner: FoundPlugin): Promise<Plugin> {
    if (this.#offline && owner.manifest.capabilities.includes('network'))
      throw new AttuneError(
        'PLUGIN_OFFLINE',
        `The plugin ${owner.package} declares that it uses the network, and this run is offline: run without --offline, or leave it out.`,
        { plugin: owner.package },
      );
    return loadPlugin(owner);
  }
}

/** Imports a plugin's code; whatever is wrong with it is an error that names the package. */
export async function loadPlugin(owner: FoundPlugin): Promise<Plugin> {
  try {
    const entry = join(owner.folder, entryOf(readPackage(owner.folder)));
    const module = (await import(pathToFileURL(entry).href)) as { default?: Plugin };
    const plugin = module.default;
    if (!plugin?.contributes) throw new TypeError('it has no default export from definePlugin');
    if (!speaks(plugin.api))
      throw new TypeError(`its code speaks api ${plugin.api}, this attune ${apiVersion}`);
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
