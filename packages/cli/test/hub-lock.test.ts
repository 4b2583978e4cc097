/** The lock on a file of the cache, and what processes that are gone leave of it. */

import { mkdtempSync, readdirSync, utimesSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { expect, test } from 'vitest';

import { locked } from '../src/hub/lock.ts';

const fresh = (): string => join(mkdtempSync(join(tmpdir(), 'lock-')), 'deep', 'a.lock');
const quick = { poll: 5, patience: 150 };

/** A lock as another process left it. */
async function left(holder: object | string): Promise<string> {
  const path = fresh();
  await locked(path, () => Promise.resolve()); // makes the folder
  writeFileSync(path, typeof holder === 'string' ? holder : JSON.stringify(holder));
  return path;
}

test('one at a time, and nothing is left', async () => {
  const path = fresh();
  let [inside, most, done] = [0, 0, 0];
  await Promise.all(
    Array.from({ length: 20 }, () =>
      locked(
        path,
        async () => {
          most = Math.max(most, ++inside);
          await sleep(3);
          inside--;
          done++;
        },
        quick,
      ),
    ),
  );
  expect([most, done]).toEqual([1, 20]);
  expect(readdirSync(join(path, '..'))).toEqual([]);
  await expect(locked(path, () => Promise.reject(new Error('no')))).rejects.toThrow('no');
  expect(readdirSync(join(path, '..'))).toEqual([]);
});

test('a process that was killed holds nobody up; one on another machine only as long as it is silent', async () => {
  // Process numbers end far below this one.
  const dead = await left({ id: 'x', pid: 2 ** 30, host: hostname() });
  const began = performance.now();
  await locked(dead, () => Promise.resolve(), { ...quick, patience: 60_000 });
  expect(performance.now() - began).toBeLessThan(5000);
  // A number that a living process has, elsewhere or by chance: silence alone tells.
  for (const holder of [
    { id: 'x', pid: process.pid, host: 'elsewhere' },
    { id: 'x', pid: process.pid, host: hostname() },
    'no JSON',
  ]) {
    const path = await left(holder);
    const start = performance.now();
    await locked(path, () => Promise.resolve(), quick);
    expect(performance.now() - start).toBeGreaterThan(quick.patience);
  }
});

test('a holder that is heard of is waited for, until the wait is stopped', async () => {
  const path = await left({ id: 'x', pid: process.pid, host: 'elsewhere' });
  let at = 1000;
  const beat = setInterval(() => utimesSync(path, at, ++at), 20);
  const stop = new AbortController();
  const waited: number[] = [];
  let entered = false;
  const waiting = locked(path, () => Promise.resolve((entered = true)), {
    ...quick,
    signal: stop.signal,
    onWait: (pid) => waited.push(pid),
  });
  await sleep(600);
  expect([entered, waited]).toEqual([false, [process.pid]]);
  stop.abort();
  await expect(waiting).rejects.toThrow(/abort/i);
  clearInterval(beat);
  expect(readdirSync(join(path, '..'))).toEqual(['a.lock']);
});
