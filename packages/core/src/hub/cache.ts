/**
 * The cache that Hugging Face's tools share: models--owner--name/{blobs,refs,snapshots}. What lies in it is
 * found here; `attune pull` fills it, and nothing in this package downloads.
 */

import { existsSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';

import { AttuneError } from '@attune/engine';

import {
  type HubReference,
  hubReferenceText,
  isCommit,
  isHubReference,
  parseHubReference,
} from './reference.ts';

/** Variables of the environment by name. */
export type Environment = Readonly<Record<string, string | undefined>>;

/** The folder of tokens and caches: HF_HOME, else `huggingface` in XDG_CACHE_HOME or ~/.cache. */
export const hubHome = (env: Environment = process.env): string =>
  expanded(
    env.HF_HOME || join(env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'huggingface'),
    env,
  );

/** The cache: HF_HUB_CACHE, its older name HUGGINGFACE_HUB_CACHE, else `hub` in the home folder. */
export const hubCache = (env: Environment = process.env): string =>
  expanded(env.HF_HUB_CACHE || env.HUGGINGFACE_HUB_CACHE || join(hubHome(env), 'hub'), env);

/** `~` and `$NAME` in a variable's path, which huggingface_hub replaces too. */
const expanded = (path: string, env: Environment): string =>
  path
    .replace(/^~(?=[/\\]|$)/, homedir())
    .replaceAll(/\$\{(\w+)\}|\$(\w+)/g, (whole, a?: string, b?: string) => env[a ?? b!] ?? whole);

/** Where the cache keeps a repository. */
export interface RepoFolders {
  /** Files by their hash: sha256 of large ones, git's sha1 of small ones. */
  readonly blobs: string;
  /** A commit by the name of a branch or tag. */
  readonly refs: string;
  /** By commit, the repository's own tree, of links to blobs. */
  readonly snapshots: string;
  readonly locks: string;
}

/** The folders of a repository `owner/name` in a cache. They need not exist. */
export function repoFolders(repo: string, cache: string = hubCache()): RepoFolders {
  const name = `models--${repo.replace('/', '--')}`;
  const folder = join(cache, name);
  return {
    blobs: join(folder, 'blobs'),
    refs: join(folder, 'refs'),
    snapshots: join(folder, 'snapshots'),
    locks: join(cache, '.locks', name),
  };
}

/** The commit that a revision was when it was last pulled. */
export function cachedCommit({ repo, revision }: HubReference, cache?: string): string | undefined {
  if (isCommit(revision)) return revision;
  const ref = join(repoFolders(repo, cache).refs, revision);
  try {
    const commit = readFileSync(ref, 'utf8').trim();
    return isCommit(commit) ? commit : undefined;
  } catch {
    return undefined;
  }
}

/** Where the cache has what a reference names: a snapshot's folder, or a file or folder in it. */
export function cachedPath(reference: HubReference, cache?: string): string | undefined {
  const commit = cachedCommit(reference, cache);
  if (commit === undefined) return undefined;
  const path = join(
    repoFolders(reference.repo, cache).snapshots,
    commit,
    ...(reference.file?.split('/') ?? []),
  );
  return existsSync(path) ? path : undefined;
}

/**
 * A path as it is, and for `hf:owner/name[@revision][:file]` the place in the cache. Throws NOT_PULLED, with the
 * command that gets it, for what is not there, BAD_REFERENCE for what is no reference.
 */
export function pulled(path: string): string {
  if (!isHubReference(path)) return path;
  const reference = parseHubReference(path);
  const found = cachedPath(reference);
  if (found !== undefined) return found;
  throw new AttuneError(
    'NOT_PULLED',
    `${path} is not in the cache (${hubCache()}), and nothing is downloaded unasked. Get it with: attune pull ${hubReferenceText(reference)}`,
    { path },
  );
}
