/** A revision of a repository, or a part of it, into the cache. */

import {
  copyFile,
  link,
  lstat,
  readFile,
  rename,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';

import {
  cachedCommit,
  cachedPath,
  type HubReference,
  hubReferenceText,
  isCommit,
  type RepoFolders,
  repoFolders,
} from '@attune/core';
import { AttuneError, makeFolder } from '@attune/engine';

import { assertSpace, bytesAt, fetchBlob, partial } from './blob.ts';
import {
  describeFile,
  type KnownFile,
  listFiles,
  type Listing,
  type RemoteFile,
} from './listing.ts';
import type { HubClient } from './request.ts';
import { selectFiles, type Selection } from './select.ts';

export interface PullRequest extends Omit<Selection, 'file'> {
  readonly reference: HubReference;
  readonly client: HubClient;
  /** Files at once. */
  readonly jobs?: number;
  readonly signal?: AbortSignal;
  /** Bytes that are there, of all that are wanted; `fetched` of them came in this run. */
  readonly onProgress?: (done: number, total: number, fetched: number) => void;
  readonly onNotice?: (text: string) => void;
}

export interface PulledFile {
  readonly name: string;
  readonly path: string;
  readonly bytes: number;
  readonly hash: string;
  /** False where it was there before. */
  readonly fetched: boolean;
}

export interface Pulled {
  readonly repo: string;
  readonly revision: string;
  readonly commit: string;
  /** The snapshot's folder, or the file or folder in it that the reference names. */
  readonly path: string;
  /** True where the hub was not asked: `files` is empty then. */
  readonly offline: boolean;
  readonly files: readonly PulledFile[];
}

/**
 * Fetches what is not there. The snapshot's links and the revision's name are written last, when every file is
 * there and checked. Offline, or where the hub cannot be reached, the cache answers. Errors: see `listFiles`,
 * `describeFile`, `fetchBlob`, `selectFiles`; NOT_CACHED offline.
 */
export async function pull(request: PullRequest): Promise<Pulled> {
  const { reference, client, signal, onNotice } = request;
  const { cache, offline } = client.settings;
  const { repo, revision, file } = reference;
  const cached = fromCache(reference, cache);
  if (offline) {
    if (cached) return cached;
    throw new AttuneError(
      'NOT_CACHED',
      `${hubReferenceText(reference)} is not in the cache (${cache}), and HF_HUB_OFFLINE forbids asking for it.`,
    );
  }
  // A commit's file never changes.
  if (
    cached &&
    file !== undefined &&
    isCommit(revision) &&
    (await bytesAt(cached.path)) !== undefined
  )
    return cached;
  let listing: Listing;
  try {
    listing = await listFiles(client, { repo, revision }, signal);
  } catch (error) {
    if (!AttuneError.is(error) || error.code !== 'NETWORK' || !cached) throw error;
    onNotice?.(`${error.message} Taken from the cache.`);
    return cached;
  }
  const { commit, files } = listing;
  const where = hubReferenceText({ repo, revision });
  const chosen = new Set(
    selectFiles(
      files.map(({ name }) => name),
      { ...request, ...(file === undefined ? {} : { file }) },
      where,
    ),
  );
  const folders = repoFolders(repo, cache);
  const wanted = files.filter(({ name }) => chosen.has(name));
  const known = await describeAll(request, wanted, commit, folders);
  const fetched = await fetchAll(request, known, commit, folders);
  const snapshot = join(folders.snapshots, commit);
  const done: PulledFile[] = [];
  for (const { name, size, hash } of known) {
    const path = join(snapshot, ...name.split('/'));
    await placeLink(path, join(folders.blobs, hash), size);
    done.push({ name, path, bytes: size, hash, fetched: fetched.has(hash) });
  }
  if (revision !== commit) await writeRef(join(folders.refs, ...revision.split('/')), commit);
  const path = join(snapshot, ...(file?.split('/') ?? []));
  return { repo, revision, commit, path, offline: false, files: done };
}

function fromCache(reference: HubReference, cache: string): Pulled | undefined {
  const { repo, revision } = reference;
  const path = cachedPath(reference, cache);
  const commit = cachedCommit(reference, cache);
  if (path === undefined || commit === undefined) return undefined;
  return { repo, revision, commit, path, offline: true, files: [] };
}

/** Sizes and hashes of all files, before a byte is written. What lies in the cache is not asked for. */
async function describeAll(
  request: PullRequest,
  files: readonly RemoteFile[],
  commit: string,
  { blobs }: RepoFolders,
): Promise<KnownFile[]> {
  const { client, reference, jobs = 4, signal } = request;
  return eachOf(files, jobs, signal, async (file, stop) => {
    const { name, size, hash } = file;
    if (hash !== undefined && size !== undefined && (await bytesAt(join(blobs, hash))) === size)
      return { name, size, hash };
    return describeFile(client, { repo: reference.repo, revision: commit }, file, stop);
  });
}

/** Fetches the blobs that are not there and returns their hashes. */
async function fetchAll(
  request: PullRequest,
  files: readonly KnownFile[],
  commit: string,
  folders: RepoFolders,
): Promise<Set<string>> {
  const { client, reference, jobs = 4, signal, onProgress, onNotice } = request;
  // Two files of the same bytes are one blob.
  const blobs = [...new Map(files.map((file) => [file.hash, file])).values()];
  const there = new Map<string, number>();
  const missing: KnownFile[] = [];
  for (const file of blobs) {
    const blob = join(folders.blobs, file.hash);
    const whole = (await bytesAt(blob)) === file.size;
    if (!whole) missing.push(file);
    const part = (await bytesAt(partial(blob))) ?? 0;
    there.set(file.hash, whole ? file.size : part <= file.size ? part : 0);
  }
  const sum = (): number => [...there.values()].reduce((a, b) => a + b, 0);
  const total = blobs.reduce((bytes, { size }) => bytes + size, 0);
  const before = sum();
  if (missing.length === 0) return new Set();
  makeFolder(folders.blobs);
  await assertSpace(folders.blobs, total - before);
  const fetched = new Set<string>();
  await eachOf(missing, jobs, signal, async (file, stop) => {
    const isNew = await fetchBlob({
      client,
      subject: { repo: reference.repo, revision: commit },
      file,
      folders,
      signal: stop,
      ...(onNotice ? { onNotice } : {}),
      onBytes: (bytes) => {
        there.set(file.hash, bytes);
        const done = sum();
        onProgress?.(done, total, done - before);
      },
    });
    if (isNew) fetched.add(file.hash);
    there.set(file.hash, file.size);
  });
  return fetched;
}

/** A few at once, results in order. The first failure stops the others, and is thrown when they have stopped. */
async function eachOf<T, R>(
  items: readonly T[],
  jobs: number,
  signal: AbortSignal | undefined,
  work: (item: T, stop: AbortSignal) => Promise<R>,
): Promise<R[]> {
  const results: R[] = [];
  const failed = new AbortController();
  const stop = signal ? AbortSignal.any([signal, failed.signal]) : failed.signal;
  const failures: unknown[] = [];
  let next = 0;
  const worker = async (): Promise<void> => {
    while (next < items.length && !stop.aborted) {
      const at = next++;
      try {
        results[at] = await work(items[at], stop);
      } catch (error) {
        failures.push(error);
        failed.abort();
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(jobs, items.length) }, worker));
  signal?.throwIfAborted();
  if (failures.length > 0) throw failures[0];
  return results;
}

/** Makes `path` a relative link to a blob; a second name or a copy of it where links are not to be had. */
async function placeLink(path: string, blob: string, size: number): Promise<void> {
  const there = await stat(path).catch(() => undefined);
  const target = await stat(blob);
  const same = there && (there.ino === target.ino || !(await lstat(path)).isSymbolicLink());
  if (same && there.size === size) return;
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    makeFolder(dirname(path));
    await rm(temporary, { force: true });
    await symlink(relative(dirname(path), blob), temporary)
      .catch(() => link(blob, temporary))
      .catch(() => copyFile(blob, temporary));
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw new AttuneError(
      'WRITE_FAILED',
      `${path} could not be written: ${(error as Error).message}.`,
    );
  }
}

/** Remembers the commit that a branch or tag is now, whole or not at all. */
async function writeRef(path: string, commit: string): Promise<void> {
  const before = await readFile(path, 'utf8').catch(() => '');
  if (before === commit) return;
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    makeFolder(dirname(path));
    await writeFile(temporary, commit);
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw new AttuneError(
      'WRITE_FAILED',
      `${path} could not be written: ${(error as Error).message}.`,
    );
  }
}
