/** What `attune compose` says of a stack: its adapters, that they act, its terms and its lock. */

import { basename } from 'node:path';

import {
  entryName,
  inventory,
  lockFileOf,
  type Model,
  nominalDims,
  type StackEntry,
  type StackLock,
} from '@attune/core';

import { routeLine, routeRows } from '../routes.ts';
import { printable, say } from '../terminal.ts';
import type { Trusted } from '../trust.ts';

interface Row {
  readonly name: string;
  readonly kind: string;
  /** Values of its weights. */
  readonly parameters: number;
  readonly strength: StackEntry['strength'];
  readonly trains: boolean;
  readonly proof: NonNullable<StackLock['proof']>['adapters'][string] | null;
}

interface Shown {
  /** The stack file that was written or locked. */
  readonly written: string | null;
  /** The stack file whose lock was compared. */
  readonly lockedAs: string | undefined;
  readonly json: boolean;
}

export function report(
  { parts, lock, drift }: Trusted,
  entries: readonly StackEntry[],
  { written, lockedAs, json }: Shown,
): void {
  const rows = rowsOf(parts.model, entries, lock);
  const routes = routeRows(parts.model, parts.routes);
  if (json) {
    const state = { written: written !== null, upToDate: drift ? drift.length === 0 : null };
    console.log(
      JSON.stringify({
        path: written,
        adapters: rows,
        routes,
        license: lock.license,
        lock: { ...state, drift: drift ?? [] },
      }),
    );
    return;
  }
  for (const line of rows.flatMap(linesOf)) console.log(printable(line));
  if (rows.length === 0) console.log('no adapters');
  if (routes.length > 0) console.log(printable(['fed', ...routes.map(routeLine)].join('\n')));
  console.log(printable(terms(lock)));
  if (written !== null) say(`wrote ${written} with its lock`);
  else if (lockedAs !== undefined)
    for (const line of lockLines(lockedAs, drift)) console.log(printable(line));
}

function rowsOf(model: Model, entries: readonly StackEntry[], lock: StackLock): Row[] {
  const { params } = inventory(model, nominalDims);
  return entries.map((entry) => {
    const { use, strength = 1, train } = entry;
    const name = entryName(entry);
    const parameters = [...params.values()]
      .filter((param) => param.name.startsWith(`${name}.`))
      .reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
    const proof = lock.proof?.adapters[name] ?? null;
    return { name, kind: use, parameters, strength, trains: train !== undefined, proof };
  });
}

function linesOf({ name, kind, parameters, strength, trains, proof }: Row): string[] {
  const head = `${name.padEnd(16)} ${kind.padEnd(12)} ${String(parameters).padStart(10)} parameters  strength ${JSON.stringify(strength)}${trains ? '  trains' : ''}`;
  if (!proof) return [head];
  const blocks = Object.entries(proof.blocks).map(([block, norm]) => `${block} ${norm}`);
  return [
    `${head}  changes the output by ${percent(proof.left_out)} (alone by ${percent(proof.alone)})`,
    `  deltas relative to the values in ${blocks.join(', ')}`,
  ];
}

/** A share with two digits of what counts: 0.0872 is 8.7 %. */
export const percent = (share: number): string =>
  `${Number((100 * share).toPrecision(share < 1 ? 2 : 3))} %`;

function terms({ license: { strictest, asks, unknown } }: StackLock): string {
  const known =
    strictest === null ? 'none known' : `${strictest} is the strictest (asks for ${asks})`;
  return `licence: ${known}${unknown.length ? `; unknown: ${unknown.join(', ')}` : ''}`;
}

function lockLines(stackFile: string, drift: readonly string[] | undefined): string[] {
  const name = basename(lockFileOf(stackFile));
  if (!drift) return [`lock: no ${name} beside it (--lock writes it)`];
  if (drift.length === 0) return [`lock: ${name} is up to date`];
  return [`lock: ${name} is out of date (locked → now):`, ...drift.map((line) => `  ${line}`)];
}
