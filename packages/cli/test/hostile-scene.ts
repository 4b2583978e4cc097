/** Hostile files: texts with changed values, bombs, pictures made by hand. */

import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { findPlugins, type Model, PluginLoader } from '@attune/core';
import type { Rng } from '@attune/engine';
import { expect, vi } from 'vitest';

import { inspect } from '../src/inspect/verdict.ts';
import { main } from '../src/main.ts';

export const fixtures = resolve('test/parity/fixtures');
export const loader = new PluginLoader(findPlugins('packages/cli'));
const folder = mkdtempSync(join(tmpdir(), 'hostile-'));
export const at = (name: string): string => join(folder, name);

/** A copy of a folder whose weights are links, so that its other files can be changed. */
export function copied(from: string, name: string): string {
  const to = at(name);
  mkdirSync(to, { recursive: true });
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    const [source, target] = [join(from, entry.name), join(to, entry.name)];
    if (entry.isDirectory()) copied(source, join(name, entry.name));
    else if (/^io\b/.test(entry.name) || existsSync(target)) continue;
    else if (entry.name.endsWith('.safetensors')) symlinkSync(source, target);
    else cpSync(source, target);
  }
  return to;
}

export const nested = (depth: number): string => '['.repeat(depth) + ']'.repeat(depth);

/** What a value is replaced by, as JSON or nearly. */
export const evil = [
  'null',
  'true',
  '-1',
  '0',
  '0.5',
  '1e308',
  '-1e308',
  '2147483648',
  '9007199254740993',
  '"x"',
  '""',
  '"__proto__"',
  '[]',
  '{}',
  '[[[]]]',
  '[null]',
  '[-1]',
  '[1e9,1e9,1e9]',
  '-Infinity',
  'NaN',
  '{"__proto__":{"polluted":1}}',
  '{"constructor":{"prototype":1}}',
  nested(50),
  nested(5000),
  '"\\ud800"',
  `"${'x'.repeat(10_000)}"`,
];

/** A JSON text with one or two of its values (keys, too, now and then) replaced. */
export function mutated(text: string, rng: Rng): string {
  let out = text;
  for (let k = rng.int(2); k >= 0; k--) {
    const spots = [...out.matchAll(/:\s*("[^"]*"|-?[\d.e+-]+|true|false|null|\[[^[\]]*\])/g)];
    if (spots.length === 0) break;
    const spot = spots[rng.int(spots.length)];
    const start = spot.index;
    const end = start + spot[0].length;
    const way = rng.uniform();
    const value = evil[rng.int(evil.length)];
    if (way < 0.85) out = `${out.slice(0, start)}: ${value}${out.slice(end)}`;
    else if (way < 0.95) out = `${out.slice(0, end)}, "__proto__": ${value}${out.slice(end)}`;
    else out = out.slice(0, rng.int(out.length));
  }
  return out;
}

/** A verdict that comes of an error of ours, or a good one. */
export async function judged(path: string, against?: Model): Promise<'loadable' | 'refused'> {
  const found = await inspect(path, { loader, ...(against ? { base: against } : {}) });
  expect(found.reason ?? '').not.toMatch(/^it cannot be read: /);
  expect((found.reason ?? '').length).toBeLessThan(20_000);
  return found.verdict;
}

export const bomb = [
  'a: &a [x, x, x, x, x, x, x, x, x]',
  ...Array.from({ length: 9 }, (_, i) => {
    const [own, last] = ['bcdefghij'[i], 'abcdefghi'[i]];
    return `${own}: &${own} [${Array.from({ length: 9 }, () => `*${last}`).join()}]`;
  }),
].join('\n');

/** A PNG of `chunks` (name, data) with right checksums. */
export function png(...chunks: readonly [string, Uint8Array][]): Buffer {
  const parts = [Buffer.from('\x89PNG\r\n\x1a\n', 'latin1')];
  for (const [name, data] of chunks) {
    const body = Buffer.concat([Buffer.from(name), data]);
    const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
    length.writeUInt32BE(data.length);
    sum.writeUInt32BE(crc(body));
    parts.push(length, body, sum);
  }
  return Buffer.concat(parts);
}

function crc(bytes: Uint8Array): number {
  let sum = 0xffffffff;
  for (const byte of bytes) {
    sum ^= byte;
    for (let k = 0; k < 8; k++) sum = sum & 1 ? (sum >>> 1) ^ 0xedb88320 : sum >>> 1;
  }
  return (sum ^ 0xffffffff) >>> 0;
}

export function header(width: number, height: number): Buffer {
  const data = Buffer.alloc(13);
  data.writeUInt32BE(width, 0);
  data.writeUInt32BE(height, 4);
  data.set([8, 2, 0, 0, 0], 8);
  return data;
}

/** Runs the command in this process. However it ends, it says so in plain words, and in one message at most. */
export async function commanded(
  ...args: readonly string[]
): Promise<{ readonly status: number; readonly said: string }> {
  let said = '';
  const spy = vi.spyOn(process.stderr, 'write').mockImplementation((chunk) => {
    said += String(chunk);
    return true;
  });
  try {
    const status = await main([...args]);
    expect(said).not.toMatch(/\n\s+at |unexpected:|internal:/);
    expect(said.match(/^attune: /gm) ?? []).toHaveLength(status === 0 ? 0 : 1);
    expect(said.length).toBeLessThan(20_000);
    return { status, said };
  } finally {
    spy.mockRestore();
  }
}

/** YAML's own marks, put where they mean something else. */
const marks = [
  '&a ',
  '*a',
  '!!map ',
  '? ',
  '- ',
  ': ',
  '{',
  ']',
  '"',
  '|',
  '>',
  '%',
  '\t',
  '\n  ',
  '.nan',
  '.inf',
];

/** Text with one of them in it. */
export function scrawled(text: string, rng: Rng): string {
  const spot = rng.int(text.length);
  return text.slice(0, spot) + rng.pick(marks) + text.slice(spot + rng.int(4));
}
