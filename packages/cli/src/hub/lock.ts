/**
 * One process at a time on a file of the cache. The lock is a file that its holder touches every second, so
 * that one left behind by a process that was killed is known without trust in process numbers or clocks.
 */

import { randomUUID } from 'node:crypto';
import { link, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { dirname } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { makeFolder } from '@attune/engine';

interface Holder {
  readonly id: string;
  readonly pid: number;
  readonly host: string;
}

export interface LockOptions {
  readonly signal?: AbortSignal;
  /** Called once when another process has the lock. */
  readonly onWait?: (pid: number) => void;
  /** Milliseconds between looks at a lock that another process has. */
  readonly poll?: number;
  /** Milliseconds without a touch after which a holder counts as gone. */
  readonly patience?: number;
}

/** Runs `work` while no other process does on the same lock. */
export async function locked<T>(
  path: string,
  work: () => Promise<T>,
  { signal, onWait, poll = 200, patience = 15_000 }: LockOptions = {},
): Promise<T> {
  makeFolder(dirname(path));
  const own: Holder = { id: randomUUID(), pid: process.pid, host: hostname() };
  let seen: { id: string; touched: number; since: number } | undefined;
  while (!(await take(path, own))) {
    signal?.throwIfAborted();
    const [holder, touched] = await Promise.all([holderOf(path), touchedAt(path)]);
    if (touched === undefined) continue; // given back meanwhile
    const id = holder?.id ?? '';
    const now = performance.now();
    if (!seen || seen.id !== id || seen.touched !== touched) {
      if (!seen) onWait?.(holder?.pid ?? 0);
      seen = { id, touched, since: now };
    }
    const gone = holder?.host === own.host && !isAlive(holder.pid);
    if (gone || now - seen.since > patience) await clear(path, id);
    else await sleep(poll, undefined, signal ? { signal } : {});
  }
  const beat = setInterval(() => {
    const now = new Date();
    utimes(path, now, now).catch(() => undefined);
  }, 1000);
  beat.unref();
  try {
    return await work();
  } finally {
    clearInterval(beat);
    if ((await holderOf(path))?.id === own.id) await rm(path, { force: true });
  }
}

/** Puts a whole lock file there, unless there is one. */
async function take(path: string, own: Holder): Promise<boolean> {
  const temporary = `${path}.${own.id}`;
  try {
    await writeFile(temporary, JSON.stringify(own));
    await link(temporary, path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  } finally {
    await rm(temporary, { force: true });
  }
}

/** Removes the lock of a holder that is gone; one that another process took meanwhile is put back. */
async function clear(path: string, id: string): Promise<void> {
  const aside = `${path}.${randomUUID()}`;
  try {
    await rename(path, aside);
    if (((await holderOf(aside))?.id ?? '') !== id) await link(aside, path);
  } catch {
    // Another process was quicker.
  } finally {
    await rm(aside, { force: true });
  }
}

const touchedAt = (path: string): Promise<number | undefined> =>
  stat(path).then(
    ({ mtimeMs }) => mtimeMs,
    () => undefined,
  );

async function holderOf(path: string): Promise<Holder | undefined> {
  try {
    return JSON.parse(await readFile(path, 'utf8')) as Holder;
  } catch {
    return undefined;
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
