/** Outputs appear whole or not at all: checked early, written beside their place, renamed into it. */

import {
  access,
  constants,
  mkdtemp,
  readdir,
  realpath,
  rename,
  rm,
  rmdir,
  stat,
} from 'node:fs/promises';
import { basename, dirname, extname, isAbsolute, join, relative, resolve, sep } from 'node:path';

import { AttuneError } from '@attune/engine';

import { badOutput, WRITABLE, writeFailed } from './errors.ts';

export type OutputFormat = 'png' | 'jpeg' | 'webp' | 'gif' | 'mp4' | 'folder';

const byExtension: Readonly<Record<string, OutputFormat>> = {
  '.png': 'png',
  '.jpg': 'jpeg',
  '.jpeg': 'jpeg',
  '.webp': 'webp',
  '.gif': 'gif',
  '.mp4': 'mp4',
  '': 'folder',
};

/** The format a path asks for: by extension; none, or a final slash, is a folder of png frames. Throws BAD_OUTPUT. */
export function outputFormat(path: string): OutputFormat {
  if (/[/\\]$/.test(path)) return 'folder';
  const extension = extname(path).toLowerCase();
  if (!Object.hasOwn(byExtension, extension))
    throw badOutput(path, `attune does not write ${extension} files`, `use ${WRITABLE}`);
  return byExtension[extension];
}

/**
 * Throws BAD_OUTPUT where `out` cannot become the result, before hours are spent on it: an unknown
 * extension, no parent folder or no right to write there, a folder where a file should stand, a
 * folder that already holds something, one of `inputs` itself (also by another name) or a place inside one.
 */
export async function assertWritable(out: string, inputs: readonly string[] = []): Promise<void> {
  const format = outputFormat(out);
  const parent = dirname(resolve(out));
  const home = await stat(parent).catch(() => undefined);
  if (!home?.isDirectory())
    throw badOutput(out, `there is no folder ${parent}`, 'create it, or write elsewhere');
  const denied = await access(parent, constants.W_OK).catch(() => true);
  if (denied) throw badOutput(out, `no right to write in ${parent}`, 'write elsewhere');
  const there = await stat(out).catch(() => undefined);
  const target = there ? await realpath(out) : join(await realpath(parent), basename(resolve(out)));
  for (const input of inputs) {
    const other = await stat(input).catch(() => undefined);
    if (!other) continue;
    const same = there && there.ino === other.ino && there.dev === other.dev;
    const place = relative(await realpath(input), target);
    if (same || place === '')
      throw badOutput(out, 'this is the input itself', 'give the result another name');
    if (other.isDirectory() && place.split(sep)[0] !== '..' && !isAbsolute(place))
      throw badOutput(out, `it lies inside the input ${input}`, 'write outside of it');
  }
  if (!there) return;
  if (format !== 'folder' && !there.isFile())
    throw badOutput(out, 'this is not a file', 'give the result another name');
  if (format === 'folder' && !there.isDirectory())
    throw badOutput(out, 'a file stands where the folder of frames should', 'use another name');
  if (format === 'folder' && (await readdir(out)).length > 0)
    throw badOutput(out, 'the folder is not empty', 'empty it, or use another name');
}

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
