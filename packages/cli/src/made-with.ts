/** What a result was made with, as it is kept in the result's metadata. */

import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

import { lockFileOf } from '@attune/core';

import type { Notes } from './media/index.ts';
import type { StackArgument } from './stack.ts';

/**
 * The settings that are not empty (all but texts as JSON), the stack as it was named, the SHA-256 of its lock file where
 * there is one (first 16 hex digits, as in `sha256sum stack.lock.json`), and attune's version.
 */
export function madeWith(
  settings: Readonly<Record<string, unknown>>,
  stack: string,
  { file }: StackArgument,
): Notes {
  const lock = file && lockFileOf(file);
  const all: Readonly<Record<string, unknown>> = {
    ...settings,
    stack,
    ...(lock && existsSync(lock)
      ? { lock: createHash('sha256').update(readFileSync(lock)).digest('hex').slice(0, 16) }
      : {}),
    attune: ownVersion(),
  };
  return Object.fromEntries(
    Object.entries(all).flatMap(([key, value]) =>
      value === undefined || value === ''
        ? []
        : [[key, typeof value === 'string' ? value : JSON.stringify(value)]],
    ),
  );
}

function ownVersion(): string {
  const own: unknown = createRequire(import.meta.url)('@attune/cli/package.json');
  return (own as { version: string }).version;
}
