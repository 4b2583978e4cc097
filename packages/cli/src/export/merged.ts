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
} from '@attune/core';
import { AttuneError, writeSafetensors } from '@attune/engine';

import { openWhole } from '../probe/model.ts';
import { comparison, outputsOf } from '../probe/outputs.ts';
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

  const again: Model = materialize(
    compose(
      rest,
      kind.create(
        { name: 'merged', file: readAdapterFile(join(folder, file)), model: rest },
        kind.options.parse({}),
      ),
    ),
    { dims: nominalDims },
  );
  const [want, got, without] = [
    await outputsOf(model, runtime),
    await outputsOf(again, runtime),
    await outputsOf(rest, runtime),
  ];
  const [error, effect] = [comparison(got, want), comparison(without, want)];
  if (!(error <= TOLERANCE))
    throw new AttuneError(
      'NOT_EQUAL',
      `The merged file differs from the stack by ${error.toExponential(1)} of the model's output (allowed: ${TOLERANCE}); nothing is kept.`,
      { error },
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

const nameOf = ({ name, use }: StackEntry): string => name ?? use.slice(use.indexOf('/') + 1);
