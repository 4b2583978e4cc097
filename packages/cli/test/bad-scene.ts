/** A folder of sound and unsound inputs, the built command run in it, and what every refusal has in common. */

import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import sharp from 'sharp';
import { expect } from 'vitest';

const fixtures = resolve('test/parity/fixtures');
export const backbone = `${fixtures}/unet/pocket`;
export const composed = `${fixtures}/compose/pocket`;
export const bin = resolve('packages/cli/bin/attune.js');

const folder = mkdtempSync(join(tmpdir(), 'bad-'));
export const at = (name: string): string => join(folder, name);

const frame = sharp({ create: { width: 33, height: 47, channels: 3, background: '#c04040' } });
await frame.png().toFile(at('picture.png'));
const frames = Array.from({ length: 12 }, (_, i) =>
  sharp({
    create: { width: 32, height: 32, channels: 3, background: { r: 20 * i, g: 9, b: 9 } },
  }),
);
const pages = await Promise.all(frames.map((one) => one.png().toBuffer()));
await sharp(pages, { join: { animated: true } })
  .webp({ lossless: true })
  .toFile(at('clip.webp'));
writeFileSync(at('text.png'), 'no picture at all');
mkdirSync(at('empty'));

export interface Run {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export function attune(...args: readonly string[]): Run {
  return spawnSync(process.execPath, [bin, ...args], {
    encoding: 'utf8',
    timeout: 120_000,
    cwd: at(''),
  });
}

/** What every refusal has in common: one message on stderr, without the code's own places. */
export function refused({ status, stdout, stderr }: Run, exit: number, message: RegExp): void {
  expect(stderr).toMatch(message);
  expect(stderr).not.toMatch(/\n\s+at |unexpected:|internal:/);
  expect(stderr.match(/^(attune|error): /gm)).toHaveLength(1);
  expect(stdout).toBe('');
  expect(status).toBe(exit);
}

/** A stack file over the fixtures. */
export function stack(name: string, adapters: readonly string[], more = ''): string {
  const lines = adapters.map((entry) => `  - ${entry}\n`).join('');
  writeFileSync(at(name), `backbone: ${backbone}\n${more}adapters:\n${lines || '  []\n'}`);
  return at(name);
}

export const edit = `{ use: edit, from: ${composed}/edit }`;
export const video = `{ use: video, from: ${composed}/video }`;
export const look = `{ name: look, use: lora, from: ${composed}/look.safetensors }`;
