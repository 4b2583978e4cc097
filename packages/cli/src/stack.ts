/** Stacks as people name them on a command line. */

import { existsSync, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';

import {
  type Adapter,
  entryName,
  type FoundPlugin,
  isHubReference,
  lockOf,
  parseYaml,
  type PluginLoader,
  pulled,
  readStackParts,
  refuseDrift,
  StackFile,
} from '@attune/core';
import { AttuneError, HashBook, readText, type RuntimeOptions } from '@attune/engine';

import { type CommandSession, openSession } from './session.ts';
import { stackMedia } from './stack-media.ts';
import { type GivenStrengths, withStrengths } from './strengths.ts';

/** A stack and the folder its paths are relative to. */
export interface StackArgument {
  readonly stack: StackFile;
  readonly folder: string;
  /** The plugin that contributes it. */
  readonly bundledBy?: FoundPlugin;
  /** The stack file, where it is one. */
  readonly file?: string;
}

/**
 * A stack file, a bundled stack's id, or a model by folder, file or bundled id as a stack without adapters.
 * Files and folders may be `hf:owner/name[@revision][:file]`, as far as the cache has them.
 */
export async function readStack(name: string): Promise<StackArgument> {
  const path = resolve(pulled(name));
  const found = existsSync(path) ? statSync(path) : undefined;
  if (/\.ya?ml$/.test(name)) {
    if (!found?.isFile())
      throw new AttuneError('MISSING_FILE', `${name} ${found ? 'is no file' : 'does not exist'}.`);
    return fromFile(path, name);
  }
  if (found) {
    const backbone = isHubReference(name) ? name : path;
    return { stack: StackFile.parse({ backbone }), folder: process.cwd() };
  }
  const { loader } = openSession();
  if (loader.ids('stacks').includes(name))
    return {
      ...fromFile((await loader.get('stacks', name)).file(), name),
      bundledBy: loader.owner('stacks', name).plugin,
    };
  return { stack: StackFile.parse({ backbone: name }), folder: process.cwd() };
}

const fromFile = (path: string, name: string): StackArgument => ({
  stack: parseYaml(StackFile, readText(path), name),
  folder: dirname(path),
  file: path,
});

/** A stack with the plugins of the project around it and of its own. */
export interface StackSession extends StackArgument, CommandSession {}

/**
 * Opens the session of a stack; with `frozen` or `verify`, only if the stack is what its lock says. Other strengths
 * are of this session alone: a lock is of the file.
 */
export async function openStackSession(
  name: string,
  runtime: RuntimeOptions = {},
  { strength = [], ...lock }: LockOptions & { readonly strength?: GivenStrengths } = {},
): Promise<StackSession> {
  const argument = await readStack(name);
  const { folder } = argument;
  const [stack] = withStrengths([argument.stack], strength, (mask) => resolve(mask));
  const session = openSession(runtime, { folder, paths: stack.plugins });
  await heedLock(name, argument, session.loader, lock);
  return { ...argument, stack, ...session };
}

export interface LockOptions {
  readonly frozen?: boolean;
  /** As `frozen`, without trusting remembered hashes. */
  readonly verify?: boolean;
}

/** Throws LOCK_DRIFT, NO_LOCK or, for what is no stack file, USAGE, where the lock is to be heeded. */
export async function heedLock(
  name: string,
  { stack, folder, file }: StackArgument,
  loader: PluginLoader,
  { frozen, verify }: LockOptions,
): Promise<void> {
  if (!frozen && !verify) return;
  if (file === undefined)
    throw new AttuneError(
      'USAGE',
      `--${verify ? 'verify' : 'frozen'}: ${name} is a model, and only a stack file has a lock.`,
    );
  const parts = await readStackParts(stack, folder, loader, stackMedia);
  refuseDrift(file, lockOf(stack, parts, loader, new HashBook({ verify: verify ?? false })));
}

/** Warnings about a stack that can be given before it is opened. */
export function stackWarnings({ stack }: StackArgument): string[] {
  const owners = new Map<string, string>();
  return stack.adapters.flatMap((entry) => {
    const { from } = entry;
    if (from === undefined) return [];
    const own = entryName(entry);
    const other = owners.get(from);
    owners.set(from, own);
    return other === undefined ? [] : [`the adapters ${other} and ${own} both come from ${from}`];
  });
}

/** Frames at once where nothing says more: what video models are commonly trained on. */
const COMMON_WINDOW = 16;

/** As many frames as all adapters of a stack can see at once. */
export const framesAtOnce = (adapters: readonly Adapter[]): number =>
  Math.min(...adapters.map(({ maxFrames = Infinity }) => maxFrames), COMMON_WINDOW);
