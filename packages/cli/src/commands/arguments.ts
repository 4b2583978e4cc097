/** Arguments that several commands share. */

import { existsSync, readFileSync, statSync } from 'node:fs';
import { dirname, resolve } from 'node:path';

import { parseYaml, StackFile } from '@attune/core';
import { AttuneError, type Device, type RuntimeOptions } from '@attune/engine';
import { InvalidArgumentError } from 'commander';

export const number = (text: string): number => {
  const value = Number(text);
  if (text.trim() === '' || !Number.isFinite(value))
    throw new InvalidArgumentError('give a number');
  return value;
};

/** A whole number from 0. */
export const count = (text: string): number => {
  const value = Number(text);
  if (text.trim() === '' || !Number.isInteger(value) || value < 0)
    throw new InvalidArgumentError('give a whole number');
  return value;
};

/** A whole number from 1. */
export const positive = (text: string): number => {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1)
    throw new InvalidArgumentError('give a whole number of at least 1');
  return value;
};

/** A text file; one that cannot be read is an error that says why. */
export function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new AttuneError('MISSING_FILE', `${path} cannot be read: ${reason}.`);
  }
}

/** A stack and the folder its paths are relative to. */
export interface StackArgument {
  readonly stack: StackFile;
  readonly folder: string;
}

/** A stack file, or a model by folder or bundled id as a stack without adapters. */
export function readStack(name: string): StackArgument {
  const path = resolve(name);
  const found = existsSync(path) ? statSync(path) : undefined;
  if (/\.ya?ml$/.test(name)) {
    if (!found?.isFile())
      throw new AttuneError('MISSING_FILE', `${name} ${found ? 'is no file' : 'does not exist'}.`);
    return { stack: parseYaml(StackFile, readFileSync(path, 'utf8'), name), folder: dirname(path) };
  }
  if (found && !found.isDirectory())
    throw new AttuneError(
      'NO_MODEL',
      `${name} is neither a stack file (.yaml) nor a model folder; attune inspect ${name} says what it is.`,
    );
  return { stack: StackFile.parse({ backbone: found ? path : name }), folder: process.cwd() };
}

/** Warnings about a stack that can be given before it is opened. */
export function stackWarnings({ stack }: StackArgument): string[] {
  const owners = new Map<string, string>();
  return stack.adapters.flatMap(({ name, use, from }) => {
    if (from === undefined) return [];
    const own = name ?? use;
    const other = owners.get(from);
    owners.set(from, own);
    return other === undefined ? [] : [`the adapters ${other} and ${own} both come from ${from}`];
  });
}

/** The runtime that `--threads` and `--device` ask for. */
export const runtimeOf = ({
  threads,
  device,
}: {
  readonly threads?: number;
  readonly device?: Device;
}): RuntimeOptions => ({
  ...(threads === undefined ? {} : { threads }),
  ...(device === undefined ? {} : { device }),
});

export const devices: readonly Device[] = ['cpu', 'cuda', 'webgpu', 'dml', 'coreml'];
