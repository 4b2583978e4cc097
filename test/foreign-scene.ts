/** What tests of foreign files share: files written by their content, and the verdict on them. */

import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { findPlugins, PluginLoader } from '@attune/core';
import { encodeSafetensors, f32 } from '@attune/engine';

import { inspect, type Verdict } from '../packages/cli/src/inspect/verdict.ts';

const loader = new PluginLoader(findPlugins('packages/cli'));
/** Where the files are written. */
export const folder = mkdtempSync(join(tmpdir(), 'foreign-'));
let files = 0;

/** Writes a file of this name into a folder of its own. */
export function written(name: string, content: string | Uint8Array): string {
  const own = join(folder, String(files++));
  mkdirSync(own);
  const path = join(own, name);
  writeFileSync(path, content);
  return path;
}

export type Shapes = Readonly<Record<string, readonly number[]>>;

/** Tensors of these shapes, which are not zero. */
export const tensors = (shapes: Shapes) =>
  Object.fromEntries(
    Object.entries(shapes).map(([name, shape]) => {
      const size = shape.reduce((a, b) => a * b, 1);
      return [name, f32(new Float32Array(size).fill(0.5), shape)] as const;
    }),
  );

/** A safetensors file of such tensors. */
export const holding = (shapes: Shapes): string =>
  written('file.safetensors', encodeSafetensors(tensors(shapes)));

export const verdictOn = (path: string): Promise<Verdict> => inspect(path, { loader });
