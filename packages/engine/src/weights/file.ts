/** Files as untrusted bytes. */

import { createHash } from 'node:crypto';
import {
  type BigIntStats,
  closeSync,
  existsSync,
  fstatSync,
  mkdirSync,
  openSync,
  readSync,
  realpathSync,
  statSync,
} from 'node:fs';
import { dirname, resolve } from 'node:path';

import { AttuneError, badFile } from '../errors.ts';

/**
 * Makes a folder and those above it. Not by `recursive` of `mkdirSync`, which never returns where a file system
 * such as /proc says of a folder in it that there is none.
 */
export function makeFolder(path: string, mode = 0o777): void {
  const above = dirname(resolve(path));
  if (!existsSync(above)) makeFolder(above, mode);
  try {
    mkdirSync(path, { mode });
  } catch (error) {
    if (!statSync(path, { throwIfNoEntry: false })?.isDirectory()) throw error;
  }
}

/** A file for the time of `use`, with its real path and size. Throws MISSING_FILE, or BAD_FILE for a folder or device. */
export function withFile<T>(
  file: string,
  use: (handle: number, real: string, size: number) => T,
): T {
  let handle: number;
  let real: string;
  try {
    real = realpathSync(file);
    // Asked before opening: to open a pipe would wait for its other end.
    if (!statSync(real).isFile()) throw badFile(file, 'it is no file but a folder or device');
    handle = openSync(real, 'r');
  } catch (error) {
    if (AttuneError.is(error)) throw error;
    throw new AttuneError('MISSING_FILE', `${file} cannot be opened: ${reasonOf(error)}.`, {
      file,
    });
  }
  try {
    return use(handle, real, fstatSync(handle).size);
  } finally {
    closeSync(handle);
  }
}

/** Bytes handled at a time. */
const chunk = 16 * 2 ** 20;

/** SHA-256 of a file's bytes from `start` on, in hexadecimal, read piece by piece. Throws as `withFile` does. */
export const hashOf = (file: string, start = 0): string =>
  withFile(file, (handle, _, size) => hashOfBytes(handle, start, size - start, file));

/** SHA-256 of `length` bytes of an open file, in hexadecimal. Throws as `readBytes` does. */
export function hashOfBytes(handle: number, from: number, length: number, file: string): string {
  const hash = createHash('sha256');
  for (let at = 0; at < length; at += chunk)
    hash.update(readBytes(handle, from + at, Math.min(chunk, length - at), file));
  return hash.digest('hex');
}

/**
 * What stays the same as long as a file is not written: its inode, size and times of change to the
 * nanosecond, as build tools trust them. A file changed without any of these is not noticed.
 */
export const stateOf = ({ ino, size, mtimeNs, ctimeNs }: BigIntStats): string =>
  [ino, size, mtimeNs, ctimeNs].join('\n');

export const reasonOf = (error: unknown): string =>
  error instanceof Error ? error.message : String(error);

/** Exactly these bytes; throws BAD_FILE where the file ends before them or cannot be read. */
export function readBytes(handle: number, from: number, length: number, file: string): Uint8Array {
  let bytes: Uint8Array;
  try {
    bytes = new Uint8Array(length);
  } catch {
    throw badFile(file, `${length} bytes at byte ${from} do not fit into memory`);
  }
  for (let done = 0; done < length;) {
    const want = Math.min(length - done, 2 ** 30);
    let got: number;
    try {
      got = readSync(handle, bytes, done, want, from + done);
    } catch (error) {
      throw badFile(file, `byte ${from + done} cannot be read: ${reasonOf(error)}`);
    }
    if (got === 0) throw badFile(file, `it ended at byte ${from + done} while being read`);
    done += got;
  }
  return bytes;
}
