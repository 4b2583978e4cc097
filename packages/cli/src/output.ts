/** Outputs appear whole or not at all: their place is checked before work starts, they are written beside it and renamed into it. */

import {
  accessSync,
  constants,
  existsSync,
  linkSync,
  realpathSync,
  renameSync,
  rmSync,
  type Stats,
  statSync,
  writeFileSync,
} from 'node:fs';
import { mkdtemp, rename, rm, rmdir, stat } from 'node:fs/promises';
import { basename, dirname, isAbsolute, join, relative, resolve, sep } from 'node:path';

import { AttuneError } from '@attune/engine';

import { badOutput, writeFailed } from './media/errors.ts';

/**
 * Throws BAD_OUTPUT where `out` cannot become a file or folder, before hours are spent on it: no parent folder or
 * no right to write there, the other of the two in its place, one of `inputs` itself (also by another name) or a
 * place inside one.
 */
export function checkPlace(
  out: string,
  kind: 'file' | 'folder',
  inputs: readonly string[] = [],
): void {
  const parent = dirname(resolve(out));
  const home = found(parent);
  if (!home?.isDirectory())
    throw badOutput(out, `there is no folder ${parent}`, 'create it, or write elsewhere');
  try {
    accessSync(parent, constants.W_OK);
  } catch {
    throw badOutput(out, `no right to write in ${parent}`, 'write elsewhere');
  }
  const there = found(out);
  const target = there ? realpathSync(out) : join(realpathSync(parent), basename(resolve(out)));
  for (const input of inputs) {
    const other = found(input);
    if (!other) continue;
    const same = there && there.ino === other.ino && there.dev === other.dev;
    const place = relative(realpathSync(input), target);
    if (same || place === '')
      throw badOutput(out, 'this is the input itself', 'give the result another name');
    if (other.isDirectory() && place.split(sep)[0] !== '..' && !isAbsolute(place))
      throw badOutput(out, `it lies inside the input ${input}`, 'write outside of it');
  }
  if (there && kind === 'file' && !there.isFile())
    throw badOutput(out, 'this is not a file', 'give the result another name');
  if (there && kind === 'folder' && !there.isDirectory())
    throw badOutput(out, 'a file stands where the folder should', 'use another name');
}

/** Not of `throwIfNoEntry`, which throws for a path below a file. */
const found = (path: string): Stats | undefined => (existsSync(path) ? statSync(path) : undefined);

/**
 * Lets `write` make a file or folder at a temporary path on the same disk, then moves it to `out` in
 * one step, over an older file and, with `replace`, in the place of an older folder. Whatever fails,
 * nothing half-written stays, and what was there does. Throws WRITE_FAILED.
 */
export async function staged<T>(
  out: string,
  write: (temp: string) => Promise<T>,
  { replace = false } = {},
): Promise<T> {
  const target = resolve(out);
  let staging: string | undefined;
  try {
    staging = await mkdtemp(join(dirname(target), '.attune-'));
    const temp = join(staging, basename(target));
    const result = await write(temp);
    // An empty folder may be in the way; a full one was refused, and makes the rename fail.
    const there = await stat(target).catch(() => undefined);
    const full =
      there?.isDirectory() &&
      (await rmdir(target).then(
        () => false,
        () => true,
      ));
    if (full && replace) await exchanged(temp, target, join(staging, '.replaced'));
    else await rename(temp, target);
    return result;
  } catch (error) {
    throw AttuneError.is(error) ? error : writeFailed(out, error);
  } finally {
    if (staging) await rm(staging, { recursive: true, force: true }).catch(() => undefined);
  }
}

/** Moves a folder to the place of another, which waits at `aside` and comes back where that fails. */
async function exchanged(from: string, to: string, aside: string): Promise<void> {
  await rename(to, aside);
  try {
    await rename(from, to);
  } catch (error) {
    await rename(aside, to);
    throw error;
  }
}

/** Writes small text files whole or not at all; without `force` one that came meanwhile is kept, and nothing is written. */
export function writeWhole(files: readonly { path: string; text: string; force: boolean }[]): void {
  const written = files.map((file) => ({ ...file, temporary: `${file.path}.${process.pid}.tmp` }));
  let at = files[0].path;
  try {
    for (const { path, temporary, text } of written) {
      at = path;
      writeFileSync(temporary, text);
    }
    for (const { path, temporary, force } of written) {
      at = path;
      if (force) renameSync(temporary, path);
      else linkSync(temporary, path);
    }
  } catch (error) {
    throw writeFailed(at, error);
  } finally {
    for (const { temporary } of written) rmSync(temporary, { force: true });
  }
}
