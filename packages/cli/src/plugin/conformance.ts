/** The conformance kit on a plugin's package from outside: its kinds of adapters, law by law. */

import { type AdapterKind, type FoundPlugin, type KindExample, PluginLoader } from '@attune/core';
import { checkKind, type Finding } from '@attune/core/testing';
import { AttuneError } from '@attune/engine';

import { reasonOf } from './check.ts';

/** What the laws said about one kind under one setting. */
export interface Trial {
  readonly id: string;
  readonly options: Readonly<Record<string, unknown>>;
  readonly ok: boolean;
  readonly findings: readonly Finding[];
}

/** Examines the kinds of adapters that a plugin declares; `given` replaces their own examples. */
export async function examine(
  plugin: FoundPlugin,
  {
    only,
    given,
    offline,
    onStart = () => {},
  }: {
    readonly only?: string;
    readonly given?: KindExample;
    readonly offline: boolean;
    readonly onStart?: (id: string) => void;
  },
): Promise<readonly Trial[]> {
  const { scope, contributes } = plugin.manifest;
  const names = contributes.adapters ?? [];
  if (only !== undefined && !names.includes(only))
    throw new AttuneError(
      'UNKNOWN_ID',
      `${plugin.package} declares no adapter "${only}"; it declares ${names.join(', ') || 'none'}.`,
    );
  const loader = new PluginLoader([plugin], { offline });
  const trials: Trial[] = [];
  for (const name of only === undefined ? names : [only]) {
    const id = `${scope}/${name}`;
    const kind = await loader.get('adapters', id);
    for (const example of given ? [given] : (kind.examples ?? [{}])) {
      onStart(id);
      const findings = await findingsOf(kind, example);
      const { options = {} } = example;
      trials.push({ id, options, ok: findings.every(({ ok }) => ok), findings });
    }
  }
  return trials;
}

/** An adapter that cannot be made at all breaks the first law there is. */
async function findingsOf(
  kind: AdapterKind,
  { options = {}, startsAsIdentity, net }: KindExample,
): Promise<readonly Finding[]> {
  try {
    return await checkKind(kind, options, {
      ...(startsAsIdentity === undefined ? {} : { startsAsIdentity }),
      ...(net === undefined ? {} : { net }),
    });
  } catch (error) {
    return [{ law: 'an adapter can be made with its options', ok: false, detail: reasonOf(error) }];
  }
}
