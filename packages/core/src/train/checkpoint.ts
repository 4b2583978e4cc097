/**
 * Checkpoints: a folder staged aside, its manifest written last, then renamed into place. A folder
 * without a matching manifest is not a checkpoint, whenever the process died.
 */

import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';

import { AttuneError, hashOf, type NDArray, Weights, writeSafetensors } from '@attune/engine';
import { z } from 'zod';

const Manifest = z.strictObject({
  version: z.literal(1),
  step: z.int().nonnegative(),
  files: z.record(z.string(), z.strictObject({ bytes: z.int(), sha256: z.string() })),
});

/** All that a run needs to go on as if it had never stopped. */
export interface Checkpoint {
  readonly step: number;
  /** Named arrays by file: `params`, `ema`, `optimizer`, … */
  readonly arrays: Readonly<Record<string, Readonly<Record<string, NDArray>>>>;
  /** Everything else, as JSON. */
  readonly state: unknown;
}

const folderName = (step: number): string => `step-${String(step).padStart(8, '0')}`;

/** Writes a checkpoint into `folder` and returns its path. An equal step is replaced. */
export function saveCheckpoint(folder: string, { step, arrays, state }: Checkpoint): string {
  mkdirSync(folder, { recursive: true });
  const staging = join(folder, `.staging-${folderName(step)}`);
  const target = join(folder, folderName(step));
  rmSync(staging, { recursive: true, force: true });
  mkdirSync(staging);
  try {
    for (const [file, named] of Object.entries(arrays))
      writeSafetensors(join(staging, `${file}.safetensors`), named);
    writeDurably(join(staging, 'state.json'), `${JSON.stringify(state, null, 2)}\n`);
    const files = Object.fromEntries(
      readdirSync(staging)
        .toSorted()
        .map((name) => [name, fingerprint(join(staging, name))]),
    );
    writeDurably(join(staging, 'manifest.json'), JSON.stringify({ version: 1, step, files }));
    rmSync(target, { recursive: true, force: true });
    renameSync(staging, target);
    syncFolder(folder);
  } catch (error) {
    rmSync(staging, { recursive: true, force: true });
    throw error;
  }
  return target;
}

/** The newest complete checkpoint of a folder, or undefined. Leftovers of a killed process are skipped. */
export function latestCheckpoint(folder: string): string | undefined {
  if (!existsSync(folder)) return undefined;
  return readdirSync(folder)
    .filter((name) => /^step-\d+$/.test(name))
    .toSorted()
    .toReversed()
    .map((name) => join(folder, name))
    .find((path) => existsSync(join(path, 'manifest.json')));
}

/** Reads a checkpoint back; a file that differs from the manifest is an error that names it. */
export function loadCheckpoint(path: string): Checkpoint {
  const manifest = Manifest.safeParse(readJson(join(path, 'manifest.json')));
  if (!manifest.success)
    throw new AttuneError('BAD_CHECKPOINT', `${path}: ${z.prettifyError(manifest.error)}`, {
      path,
    });
  const { step, files } = manifest.data;
  const arrays: Record<string, Record<string, NDArray>> = {};
  for (const [name, want] of Object.entries(files)) {
    const file = join(path, name);
    const got = existsSync(file) ? fingerprint(file) : undefined;
    if (got?.sha256 !== want.sha256)
      throw new AttuneError(
        'BAD_CHECKPOINT',
        `${file} ${got ? 'differs from' : 'is missing, but listed in'} the checkpoint's manifest; use an older checkpoint.`,
        { file },
      );
    if (!name.endsWith('.safetensors')) continue;
    const weights = Weights.fromFile(file);
    arrays[basename(name, '.safetensors')] = Object.fromEntries(
      [...weights.names()].map((key) => [key, weights.entry(key).load()]),
    );
  }
  return { step, arrays, state: readJson(join(path, 'state.json')) };
}

/** Deletes all but the newest `keep` checkpoints. */
export function pruneCheckpoints(folder: string, keep: number): void {
  const steps = readdirSync(folder)
    .filter((name) => /^step-\d+$/.test(name))
    .toSorted();
  for (const name of steps.slice(0, Math.max(0, steps.length - keep)))
    rmSync(join(folder, name), { recursive: true, force: true });
}

function fingerprint(file: string): { bytes: number; sha256: string } {
  return { bytes: statSync(file).size, sha256: hashOf(file) };
}

function writeDurably(file: string, text: string): void {
  writeFileSync(file, text);
  const handle = openSync(file, 'r');
  fsyncSync(handle);
  closeSync(handle);
}

/** Makes a rename durable; not every platform lets a folder be opened. */
function syncFolder(folder: string): void {
  if (process.platform === 'win32') return;
  const handle = openSync(folder, 'r');
  fsyncSync(handle);
  closeSync(handle);
}

function readJson(file: string): unknown {
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new AttuneError('BAD_CHECKPOINT', `${file} cannot be read: ${reason}.`, { file });
  }
}
