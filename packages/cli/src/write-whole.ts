/** Small text files that appear together, whole, or not at all. */

import { linkSync, renameSync, rmSync, writeFileSync } from 'node:fs';

import { AttuneError } from '@attune/engine';

/** Writes files whole or not at all; without `force` one that came meanwhile is kept, and nothing is written. */
export function writeWhole(files: readonly { path: string; text: string; force: boolean }[]): void {
  const staged = files.map((file) => ({ ...file, temporary: `${file.path}.${process.pid}.tmp` }));
  let at = files[0].path;
  try {
    for (const { path, temporary, text } of staged) {
      at = path;
      writeFileSync(temporary, text);
    }
    for (const { path, temporary, force } of staged) {
      at = path;
      if (force) renameSync(temporary, path);
      else linkSync(temporary, path);
    }
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new AttuneError('WRITE_FAILED', `${at} could not be written: ${reason}.`);
  } finally {
    for (const { temporary } of staged) rmSync(temporary, { force: true });
  }
}
