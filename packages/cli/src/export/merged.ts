/** The adapters of one kind in a stack as one file for other tools, each times its strength. */

import { mkdirSync, writeFileSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';

import {
  compose,
  materialize,
  type Model,
  nominalDims,
  pulled,
  readAdapterFile,
  readStrength,
  type StackEntry,
  strengthsByAddress,
  type StrengthValueEntry,
} from '@attune/core';
import { AttuneError, writeSafetensors } from '@attune/engine';

import { equality, OF_EFFECT } from '../probe/equality.ts';
import { openWhole } from '../probe/model.ts';
import { readMask } from '../stack-media.ts';
import type { StackSession } from '../stack.ts';
import { mergedCard } from './card.ts';
import { TOLERANCE } from './check.ts';
import { mergedManifest } from './manifest.ts';
import { hashed, originsOf } from './origin.ts';

export interface Merge {
  /** The file, relative to the folder. */
  readonly file: string;
  readonly adapters: readonly string[];
  readonly others: readonly string[];
  readonly error: number;
  readonly effect: number;
}

/** Writes into a folder that is made here. `to` is the dialect; default: the kind's first. */
export async function exportMerged(
  session: StackSession,
  stack: string,
  folder: string,
  { id, to }: { readonly id: string; readonly to: string | undefined },
): Promise<Merge> {
  const { stack: whole, folder: home, loader, runtime } = session;
  const kind = await loader.get('adapters', id);
  const dialect = to ?? kind.dialects?.[0];
  if (!kind.merge || !dialect || !kind.dialects?.includes(dialect))
    throw new AttuneError(
      'NO_DIALECT',
      `Adapters of the kind ${id} cannot be merged${to ? ` as ${to}` : ''}; known: ${(kind.merge && kind.dialects?.join(', ')) || 'no dialect'}.`,
    );
  const full = loader.owner('adapters', id).id;
  const model = await openWhole(session, loader);
  const on = new Set(model.adapters.map(({ name }) => name));
  const isOwn = ({ use }: StackEntry) => loader.owner('adapters', use).id === full;
  const own = whole.adapters.filter((entry) => isOwn(entry) && on.has(nameOf(entry)));
  if (own.length === 0)
    throw new AttuneError(
      'NOTHING_TO_MERGE',
      `${stack} has no adapter of the kind ${id} that acts.`,
    );
  const strengths = await Promise.all(
    own.map(
      async ({ strength }) =>
        strength && readStrength(strength, (path) => resolve(home, pulled(path)), readMask),
    ),
  );
  const parts = own.map((entry, i) => {
    const name = nameOf(entry);
    if (entry.from === undefined)
      throw new AttuneError(
        'MISSING_FILE',
        `The adapter ${name} has no file that could be merged.`,
      );
    return {
      name,
      file: readAdapterFile(resolve(home, pulled(entry.from))),
      ...(strengths[i] === undefined ? {} : { strength: strengths[i] }),
    };
  });
  const rest = await openWhole(
    { folder: home, stack: { ...whole, adapters: whole.adapters.filter((one) => !isOwn(one)) } },
    loader,
  );
  const {
    tensors,
    metadata = {},
    folder: layout,
  } = await kind.merge({ parts, model: rest, dialect });
  mkdirSync(folder);
  const file = layout?.file ?? `${basename(folder)}.safetensors`;
  writeSafetensors(join(folder, file), tensors, metadata);
  for (const [name, config] of Object.entries(layout?.configs ?? {}))
    writeFileSync(join(folder, name), `${JSON.stringify(config, null, 2)}\n`);

  const written = readAdapterFile(join(folder, file));
  const again = (strength: number): Model => {
    const given = { name: 'merged', file: written, model: rest, strength };
    const adapter = kind.create(given, kind.options.parse({}));
    return materialize(compose(rest, adapter), { dims: nominalDims });
  };
  const before = (strength: number): Model | Promise<Model> => {
    if (strength === 1) return model;
    const adapters = whole.adapters.map((entry) => (isOwn(entry) ? times(entry, strength) : entry));
    return openWhole({ folder: home, stack: { ...whole, adapters } }, loader);
  };
  const { error, effect, share } = await equality(rest, before, again, runtime);
  if (!(error <= TOLERANCE && share <= OF_EFFECT))
    throw new AttuneError(
      'NOT_EQUAL',
      `The merged file differs from the stack by ${error.toExponential(1)} of the model's output and ${share.toExponential(1)} of what its adapters change (allowed: ${TOLERANCE} and ${OF_EFFECT}); nothing is kept.`,
      { error, share },
    );
  const names = new Set(own.map(nameOf));
  const origins = originsOf(session, model, (name) => names.has(name));
  const files = hashed(
    [file, ...Object.keys(layout?.configs ?? {})].map((name) => join(folder, name)),
  );
  const facts = { id: full, dialect, file, error, effect, files };
  writeFileSync(join(folder, 'README.md'), mergedCard({ stack, origins }, facts));
  writeFileSync(
    join(folder, 'manifest.json'),
    `${JSON.stringify(mergedManifest({ stack, origins }, facts), null, 1)}\n`,
  );
  return {
    file,
    adapters: [...names],
    others: rest.adapters.map(({ name }) => name),
    error,
    effect,
  };
}

/** An entry so many times as strong. What merges has constant strengths. */
function times(entry: StackEntry, by: number): StackEntry {
  const given: Readonly<Record<string, StrengthValueEntry>> = {
    default: 1,
    ...strengthsByAddress(entry.strength),
  };
  const strength = Object.entries(given).map(([address, value]) => [
    address,
    typeof value === 'number' ? by * value : { ...value, scale: by * (value.scale ?? 1) },
  ]);
  return { ...entry, strength: Object.fromEntries(strength) as StackEntry['strength'] };
}

const nameOf = ({ name, use }: StackEntry): string => name ?? use.slice(use.indexOf('/') + 1);
