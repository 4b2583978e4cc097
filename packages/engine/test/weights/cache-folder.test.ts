/** Where the cache folder lies. */

import { join } from 'node:path';

import { expect, test } from 'vitest';

import { cacheFolder } from '../../src/weights/cache-folder.ts';

test.each([
  [{ ATTUNE_CACHE: '/a/b', XDG_CACHE_HOME: '/c' }, 'linux', '/a/b'],
  [{ ATTUNE_CACHE: '' }, 'linux', undefined],
  [{ XDG_CACHE_HOME: '/c' }, 'linux', join('/c', 'attune')],
  [{ LOCALAPPDATA: '/local' }, 'win32', join('/local', 'attune')],
  [{}, 'win32', undefined],
] as const)('the cache folder for %j on %s', (env, platform, want) => {
  expect(cacheFolder(env, platform)).toBe(want);
});

test('the cache folder lies in the home folder otherwise', () => {
  const end = join('.cache', 'attune');
  expect(cacheFolder({ XDG_CACHE_HOME: 'relative' }, 'linux')?.endsWith(end)).toBe(true);
  expect(cacheFolder({}, 'darwin')?.endsWith(join('Library', 'Caches', 'attune'))).toBe(true);
});
