/** Checks of a plugin's code against its manifest: ids, hooks, options; of its ids against its neighbours'. */

import type { ContributionKind, FoundPlugin, Plugin } from '@attune/core';

import { type Candidate, type CheckResult, declaredIds, type Loaded, verdictOf } from './check.ts';
import type { ListedPlugin } from './listing.ts';
import { ownScopes } from './scaffold.ts';

/** Its ids are its own: nobody else in reach has them. */
export function checkNeighbours(
  { plugin, folder }: Candidate,
  others: readonly ListedPlugin[],
): CheckResult {
  const { package: name, manifest } = plugin;
  const wrong: string[] = [];
  if (ownScopes.includes(manifest.scope) && !name.startsWith('@attune/'))
    wrong.push(`the scope ${manifest.scope} is for attune's own plugins`);
  for (const [kind, names] of declaredIds(plugin))
    for (const [i, one] of names.entries()) {
      const id = `${manifest.scope}/${one}`;
      if (names.indexOf(one) < i) wrong.push(`${kind} ${id} is declared twice`);
      const other = others.find(
        (found) =>
          found.package !== name &&
          found.folder !== folder &&
          found.contributes[kind]?.includes(id),
      );
      if (other)
        wrong.push(
          `${kind} ${id} is contributed by both ${name} and ${other.package} (${other.folder})`,
        );
    }
  return verdictOf('ids', `unique among ${others.length} plugins in reach`, wrong);
}

/** The code contributes what the manifest declares, nothing less and nothing more. */
export function checkContributions(
  { plugin, code, exported }: Loaded,
  failure: string,
): CheckResult {
  const broken = code.broken.map((one) => `it imports what is not there: ${one}`);
  if (!exported) return verdictOf('code', '', [...broken, failure]);
  const wrong = [...broken];
  const declared = new Set(
    declaredIds(plugin).flatMap(([kind, names]) => names.map((one) => `${kind} ${one}`)),
  );
  const given = new Set(contributionsOf(exported).map(({ kind, name }) => `${kind} ${name}`));
  for (const id of declared)
    if (!given.has(id)) wrong.push(`package.json declares ${id}, the code does not contribute it`);
  for (const id of given)
    if (!declared.has(id))
      wrong.push(`the code contributes ${id}, package.json does not declare it`);
  for (const { kind, name, value } of contributionsOf(exported))
    for (const [hook, type] of Object.entries(hooks[kind as ContributionKind] ?? {})) {
      const got = typeof (Object(value) as Record<string, unknown>)[hook];
      if (got !== type)
        wrong.push(
          `${kind} ${name}: ${hook} is ${got === 'undefined' ? 'missing' : `a ${got}`}, wanted: a ${type}`,
        );
    }
  return verdictOf('code', [...given].join(', '), wrong);
}

/** What each kind of contribution must have. */
const hooks: Readonly<Record<ContributionKind, Readonly<Record<string, 'function' | 'object'>>>> = {
  adapters: { options: 'object', create: 'function' },
  data: { options: 'object', create: 'function' },
  objectives: { options: 'object', create: 'function' },
  samplers: { options: 'object', create: 'function' },
  suites: { options: 'object', run: 'function' },
  nets: { config: 'object', create: 'function' },
  backbones: { folder: 'function' },
  stacks: { file: 'function' },
};

interface Contributed {
  readonly kind: string;
  readonly name: string;
  readonly value: unknown;
}

const contributionsOf = ({ contributes }: Plugin): Contributed[] =>
  Object.entries(contributes as Record<string, object>).flatMap(([kind, group]) =>
    Object.entries(group).map(([name, value]: [string, unknown]) => ({ kind, name, value })),
  );

/** Options are a schema that refuses what it does not know, so that a typing error is answered. */
export function checkOptions(exported: Plugin): CheckResult {
  const wrong: string[] = [];
  const words: string[] = [];
  for (const { kind, name, value } of contributionsOf(exported)) {
    const { options } = Object(value) as { options?: Partial<Schema> };
    if (options === undefined) continue;
    if (typeof options.safeParse !== 'function') {
      wrong.push(`${kind} ${name}: options is no zod schema`);
      continue;
    }
    const schema = options as Schema;
    const odd = schema.safeParse({ 'no-such-option': true });
    if (!odd.error?.issues.some(({ code }) => code === 'unrecognized_keys'))
      wrong.push(`${kind} ${name}: options takes keys it does not know: use z.strictObject`);
    const plain = schema.safeParse({});
    words.push(
      plain.error
        ? `${name} needs ${plain.error.issues.map(({ path }) => path.join('.')).join(', ')}`
        : `${name} has defaults for all`,
    );
  }
  return verdictOf('options', words.join('; ') || 'none', wrong);
}

/** As much of a zod schema as this looks at: a plugin may bring a copy of its own. */
interface Schema {
  safeParse(value: unknown): {
    readonly error?: {
      readonly issues: readonly { readonly code: string; readonly path: readonly PropertyKey[] }[];
    };
  };
}

/** The manifest in words. */
export function describeManifest({ manifest }: FoundPlugin): string {
  const kinds = Object.entries(manifest.contributes).map(
    ([kind, names]) => `${kind} ${names.map((one) => `${manifest.scope}/${one}`).join(', ')}`,
  );
  const abilities = manifest.capabilities.join(', ') || 'none';
  return `api ${[manifest.api].flat().join(' to ')}; ${kinds.join('; ') || 'contributes nothing'}; capabilities: ${abilities}`;
}
