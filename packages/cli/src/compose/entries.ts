/** Adapters named on a command line, as entries of a stack file. */

import { existsSync } from 'node:fs';
import { basename, extname, resolve } from 'node:path';

import {
  entryName,
  isCommit,
  isHubReference,
  type PluginLoader,
  pulled,
  type StackEntry,
} from '@attune/core';
import { AttuneError } from '@attune/engine';

import { inspect } from '../inspect/verdict.ts';
import { printable } from '../terminal.ts';
import { placed } from './moved.ts';

export interface Place {
  /** The folder that paths of the stack file are relative to. */
  readonly target: string;
  readonly loader: PluginLoader;
  readonly taken: readonly StackEntry[];
  readonly partial: boolean;
}

const syntax =
  /^(?:(?<name>[A-Za-z_][\w-]*)(?::(?<use>[\w-]+(?:\/[\w-]+)?))?=)?(?<path>.+?)(?:@(?<strength>[-+\w.]+))?$/;

/** The parts of an argument. After an hf: reference only a number is a strength: `@v1.0` is its revision. */
function partsOf(spec: string): Partial<Record<string, string>> | undefined {
  const parts = syntax.exec(spec)?.groups;
  const { path = '', strength } = parts ?? {};
  if (!isHubReference(path) || strength === undefined) return parts;
  const isStrength = Number.isFinite(Number(strength)) && !isCommit(strength);
  return isStrength ? parts : { ...parts, path: `${path}@${strength}`, strength: undefined };
}

/** One adapter as it is asked for: its kind is what `inspect` says the file is, unless it is given. */
export interface Wanted {
  readonly path: string;
  readonly name?: string | undefined;
  readonly use?: string | undefined;
  readonly strength?: number | undefined;
}

/** An argument of the command. Throws MISSING_FILE or BAD_STRENGTH. */
export function wantedOf(spec: string): Wanted {
  // A path that exists may hold any character, also "=" and "@".
  const { path, name, use, strength } = existsSync(spec) ? { path: spec } : (partsOf(spec) ?? {});
  if (!path || !existsSync(pulled(path)))
    throw new AttuneError('MISSING_FILE', `${path ?? spec} does not exist (from "${spec}").`);
  return {
    path,
    name,
    use,
    strength: strength === undefined ? undefined : strengthOf(strength, `"${spec}": `),
  };
}

/** A strength that was typed. Throws BAD_STRENGTH. */
export function strengthOf(text: string, where = ''): number {
  const strength = text.trim() === '' ? Number.NaN : Number(text);
  if (Number.isFinite(strength)) return strength;
  throw new AttuneError('BAD_STRENGTH', `${where}the strength ${text} is no finite number.`);
}

/** The entry of a stack file. */
export async function entryOf(
  { path, strength, ...given }: Wanted,
  { target, loader, taken, partial }: Place,
): Promise<StackEntry> {
  const use = given.use ?? (await kindOf(path, loader, partial));
  const names = new Set(taken.map(entryName));
  const own = use.slice(use.indexOf('/') + 1);
  // The kind's own name is the plainest one; the next adapter of a kind is called as its file.
  const name = given.name ?? (names.has(own) ? plain(path) : own);
  return {
    ...(name === own ? {} : { name }),
    use,
    from: placed(resolve(path), target, path),
    ...(strength === undefined ? {} : { strength }),
  };
}

const plain = (path: string): string =>
  basename(path, extname(path))
    .replaceAll(/[^\w-]+/g, '_')
    .replace(/^(?![A-Za-z_])/, '_');

/** With `partial` also of a file that is not whole: what of it fits is seen when the stack is opened. */
async function kindOf(path: string, loader: PluginLoader, partial: boolean): Promise<string> {
  const { verdict, kind, reason, fix } = await inspect(pulled(path), { loader });
  const known = kind !== null && loader.ids('adapters').includes(kind);
  if (verdict === 'refused' && !(partial && known))
    throw new AttuneError('REFUSED', printable(`${path} is refused: ${reason}. Way out: ${fix}.`));
  if (known) return kind;
  throw new AttuneError('NO_ADAPTER', `${path} is no adapter but a ${kind ?? 'file of no kind'}.`);
}
