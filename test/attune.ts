/** The built command, run as its user runs it. */

import { spawnSync } from 'node:child_process';

import { expect } from 'vitest';

/** Runs it to its end, from the project's root. However it ends, it never shows a stack trace. */
export function attune(...args: readonly string[]) {
  const { status, stdout, stderr } = spawnSync(
    process.execPath,
    ['packages/cli/bin/attune.js', ...args],
    { encoding: 'utf8', timeout: 120_000 },
  );
  expect(stderr).not.toMatch(/\n\s+at |unexpected:/);
  return { status, stdout, stderr };
}
