/** Plugins in reach from their manifests alone: no code of theirs runs. */

import { type FoundPlugin, readPackage, readPlugin } from '@attune/core';
import { AttuneError } from '@attune/engine';

import { packagesInReach, type ReachedPackage, type Surroundings } from '../session.ts';

export interface ListedPlugin {
  readonly package: string;
  readonly version: string | null;
  /** The contract version, or the first and the last. */
  readonly api: FoundPlugin['manifest']['api'] | null;
  readonly license: string | null;
  /** `scope/name` by kind of contribution. */
  readonly contributes: Readonly<Record<string, readonly string[]>>;
  readonly capabilities: readonly string[];
  readonly origin: string;
  readonly folder: string;
  /** Why it is not used: a bad manifest, another api, a name or an id that another plugin has. */
  readonly problem: string | null;
}

/** What brings a package, in words. */
const originOf = ({ from, via }: ReachedPackage): string => {
  if (from === 'attune') return 'built in';
  if (via === 'path') return 'plugins of the stack';
  const whose = from === 'stack' ? "the stack's project" : 'the project here';
  return via === 'project' ? whose : `dependency of ${whose}`;
};

/** Every plugin in reach, also those that cannot be used. */
export function listPlugins(surroundings: Surroundings = {}): ListedPlugin[] {
  const packages = new Map<string, string>();
  const ids = new Map<string, string>();
  return packagesInReach(surroundings).flatMap((place): ListedPlugin[] => {
    const { folder } = place;
    const origin = originOf(place);
    let plugin: FoundPlugin | undefined;
    try {
      plugin = readPlugin(folder);
    } catch (error) {
      if (!AttuneError.is(error)) throw error;
      return [{ ...nothing, ...nameOf(folder), origin, folder, problem: error.message }];
    }
    if (!plugin) return [];
    const { package: name, version, license, manifest } = plugin;
    const contributes = Object.fromEntries(
      Object.entries(manifest.contributes).map(([kind, names]) => [
        kind,
        names.map((one) => `${manifest.scope}/${one}`),
      ]),
    );
    const twin = packages.get(name);
    const shared = twin === undefined ? claimed(contributes, ids) : undefined;
    if (twin === undefined) {
      packages.set(name, folder);
      for (const [kind, own] of Object.entries(contributes))
        for (const id of own) if (!ids.has(`${kind}:${id}`)) ids.set(`${kind}:${id}`, name);
    }
    const problem =
      twin === undefined
        ? shared && `${shared.id} is contributed by ${shared.owner}, too: remove one of them`
        : `the ${name} in ${twin} is used instead`;
    return [
      {
        package: name,
        version,
        api: manifest.api,
        license: license ?? null,
        contributes,
        capabilities: manifest.capabilities,
        origin,
        folder,
        problem: problem ?? null,
      },
    ];
  });
}

const nothing = {
  version: null,
  api: null,
  license: null,
  contributes: {},
  capabilities: [],
} as const;

/** What can be said of a package whose manifest cannot be read. */
function nameOf(folder: string): { package: string; version: string | null } {
  try {
    const { name, version } = Object(readPackage(folder)) as { name?: unknown; version?: unknown };
    return {
      package: typeof name === 'string' ? name : folder,
      version: typeof version === 'string' ? version : null,
    };
  } catch {
    return { package: folder, version: null };
  }
}

/** The first of these ids that another package has, and that package. */
function claimed(
  contributes: Readonly<Record<string, readonly string[]>>,
  ids: ReadonlyMap<string, string>,
): { readonly id: string; readonly owner: string } | undefined {
  for (const [kind, own] of Object.entries(contributes))
    for (const id of own) {
      const owner = ids.get(`${kind}:${id}`);
      if (owner !== undefined) return { id, owner };
    }
  return undefined;
}
