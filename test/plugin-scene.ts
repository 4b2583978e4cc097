/** A built plugin in a folder of its own, changed copies of it, and the command run on them. */

import { spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { expect } from 'vitest';

import { buildTypes, done } from './registry.ts';

const bin = resolve('packages/cli/bin/attune.js');
export const place = mkdtempSync(join(tmpdir(), 'plugin-'));
export const at = (...parts: readonly string[]): string => join(place, ...parts);

interface Run {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export const attune = (cwd: string, ...args: readonly string[]): Run =>
  spawnSync(process.execPath, [bin, ...args], { cwd, encoding: 'utf8', timeout: 120_000 });

/** What every failure has in common: one message, no stack trace. */
export function refused({ status, stderr }: Run, exit: number, message: RegExp): void {
  expect(stderr).toMatch(message);
  expect(stderr).not.toMatch(/\n\s+at |unexpected:/);
  expect(stderr.match(/^(attune|error): /gm)).toHaveLength(1);
  expect(status).toBe(exit);
}

/** Installs what a plugin needs, as links to the workspace. */
export function link(folder: string): void {
  mkdirSync(join(folder, 'node_modules', '@attune'), { recursive: true });
  for (const name of ['core', 'engine', 'cli'])
    symlinkSync(resolve('packages', name), join(folder, 'node_modules', '@attune', name));
  for (const name of ['zod', 'typescript'])
    symlinkSync(resolve('node_modules', name), join(folder, 'node_modules', name));
}

export const build = (folder: string): string =>
  done(process.execPath, [resolve('node_modules/typescript/bin/tsc')], folder);

/** A copy of a built scaffold, with changes to its package.json and its code. */
export function changed(
  name: string,
  manifest: (json: Record<string, unknown>) => void,
  code: (text: string) => string = (text) => text,
): string {
  const folder = at(name);
  cpSync(at('attune-glow'), folder, { recursive: true, verbatimSymlinks: true });
  const file = join(folder, 'package.json');
  const json = JSON.parse(readFileSync(file, 'utf8')) as Record<string, unknown>;
  manifest(json);
  writeFileSync(file, JSON.stringify(json));
  const entry = join(folder, 'dist', 'index.js');
  writeFileSync(entry, code(readFileSync(entry, 'utf8')));
  return folder;
}

interface Report {
  readonly ok: boolean;
  readonly checks: readonly {
    readonly check: string;
    readonly verdict: string;
    readonly detail: string;
  }[];
}

export function validated(folder: string): Report {
  const { stdout, status } = attune(folder, 'plugin', 'validate', '--json');
  const report = JSON.parse(stdout) as Report;
  expect(status).toBe(report.ok ? 0 : 1);
  return report;
}

/** Makes the scaffold `attune-glow` and builds it. */
export function scaffold(): void {
  buildTypes();
  done(process.execPath, [bin, 'plugin', 'new', 'attune-glow', '--scope', 'acme'], place);
  link(at('attune-glow'));
  build(at('attune-glow'));
}
