/** The folder of what can be computed again. It may be deleted at any time. */

import { homedir } from 'node:os';
import { isAbsolute, join } from 'node:path';

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * The folder that `ATTUNE_CACHE` names, or `attune` in the platform's cache folder (`XDG_CACHE_HOME` or
 * ~/.cache, ~/Library/Caches, %LOCALAPPDATA%). Undefined, for no cache, where `ATTUNE_CACHE` is empty or
 * the user has no home.
 */
export function cacheFolder(
  env: Environment = process.env,
  platform: NodeJS.Platform = process.platform,
): string | undefined {
  if (env.ATTUNE_CACHE !== undefined) return env.ATTUNE_CACHE || undefined;
  const base =
    platform === 'win32'
      ? env.LOCALAPPDATA
      : platform === 'darwin'
        ? inHome(['Library', 'Caches'])
        : env.XDG_CACHE_HOME && isAbsolute(env.XDG_CACHE_HOME)
          ? env.XDG_CACHE_HOME
          : inHome(['.cache']);
  return base && join(base, 'attune');
}

function inHome(path: readonly string[]): string | undefined {
  try {
    return join(homedir(), ...path);
  } catch {
    return undefined;
  }
}
