/** Locks of the stacks that a recipe opens. */

import {
  lockFileOf,
  lockOf,
  type PluginLoader,
  readStackParts,
  recipeLockText,
  refuseRecipeDrift,
  type StackFile,
  type StackLock,
} from '@attune/core';
import { AttuneError, HashBook } from '@attune/engine';

import { checkPlace, writeWhole } from './output.ts';
import { stackMedia } from './stack-media.ts';
import type { LockOptions } from './stack.ts';
import { say } from './terminal.ts';

export interface RecipeLockOptions extends LockOptions {
  /** Write the lock, and do nothing else. */
  readonly lock?: boolean;
}

export interface LockedRecipe {
  /** The recipe as it was named, the folder that its paths are relative to, and the command that runs it. */
  readonly file: string;
  readonly folder: string;
  readonly command: string;
  /** Its stacks by what they are in it. */
  readonly stacks: Readonly<Record<string, StackFile>>;
}

/**
 * Writes the lock of a recipe's stacks where that is asked for, which is told by true; else compares, with
 * `frozen` or `verify`, and throws LOCK_DRIFT or NO_LOCK.
 */
export async function heedRecipeLock(
  { file, folder, command, stacks }: LockedRecipe,
  loader: PluginLoader,
  { frozen = false, verify = false, lock = false }: RecipeLockOptions,
): Promise<boolean> {
  if (!frozen && !verify && !lock) return false;
  if (!/\.ya?ml$/.test(file))
    throw new AttuneError(
      'USAGE',
      `${file}: only a recipe that ends in .yaml has a lock beside it.`,
    );
  if (lock) checkPlace(lockFileOf(file), 'file');
  const hashes = new HashBook({ verify });
  const now: Record<string, StackLock> = {};
  for (const [name, stack] of Object.entries(stacks)) {
    const parts = await readStackParts(stack, folder, loader, { ...stackMedia, fresh: true });
    now[name] = lockOf(stack, parts, loader, hashes);
  }
  if (!lock) refuseRecipeDrift(file, now, command);
  else {
    writeWhole([{ path: lockFileOf(file), text: recipeLockText(now), force: true }]);
    say(`wrote ${lockFileOf(file)}`);
  }
  return lock;
}
