/** What pictures and clips may be written as, and where. */

import { existsSync, readdirSync } from 'node:fs';
import { extname } from 'node:path';

import { checkPlace } from '../output.ts';
import { badOutput, WRITABLE } from './errors.ts';

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
 * extension, what `checkPlace` refuses, a folder that already holds something.
 */
export function assertWritable(out: string, inputs: readonly string[] = []): void {
  const format = outputFormat(out);
  checkPlace(out, format === 'folder' ? 'folder' : 'file', inputs);
  if (format === 'folder' && existsSync(out) && readdirSync(out).length > 0)
    throw badOutput(out, 'the folder is not empty', 'empty it, or use another name');
}
