/** docs/formats.md: its tables are what the code says, and the code says what is in files. */

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { findPlugins, formatsOf, PluginLoader, readAdapterFile } from '@attune/core';
import { expect, test } from 'vitest';

const page = 'docs/formats.md';
const script = (...args: readonly string[]) =>
  spawnSync(process.execPath, ['scripts/formats.mjs', ...args], {
    encoding: 'utf8',
    timeout: 60_000,
  });

test('the page is up to date; one that is not is found and written anew', () => {
  const { status, stderr } = script('--check');
  expect([status, stderr]).toEqual([0, '']);
  const text = readFileSync(page, 'utf8');
  const copy = join(mkdtempSync(join(tmpdir(), 'page-')), 'formats.md');
  writeFileSync(copy, text.replace(/^\| `lora` \| kohya \| loha .*\n/m, ''));
  expect(readFileSync(copy, 'utf8').length).toBeLessThan(text.length);
  expect(script(copy, '--check').status).toBe(1);
  expect(script(copy).status).toBe(0);
  expect(readFileSync(copy, 'utf8')).toBe(text);
}, 120_000);

const fixtures = 'test/parity/fixtures';
const files = [
  ...readdirSync('test/golden').map((name) => join('test/golden', name)),
  ...['compose/pocket', 'compose/sd15', 'checkpoints', 'ip-adapter'].flatMap((folder) =>
    readdirSync(join(fixtures, folder)).map((name) => join(fixtures, folder, name)),
  ),
].filter((path) => /(\.(safetensors|ckpt|pth|pt)|\/(edit|video|\w+\.peft))$/.test(path));

test('every layout and algorithm that is detected in a file stands in the tables', async () => {
  const loader = new PluginLoader(findPlugins('packages/cli'));
  const seen = new Set<string>();
  for (const id of loader.ids('adapters')) {
    const kind = await loader.get('adapters', id);
    const known = formatsOf(kind, id).flatMap(({ dialect, algorithm }) => [
      `${id} ${dialect}`,
      `${id} ${algorithm}`,
    ]);
    for (const path of files) {
      let file;
      try {
        file = readAdapterFile(path);
      } catch {
        continue; // hostile ones
      }
      const found = kind.detect?.(file);
      if (!found) continue;
      const algorithms = (found.algorithm ?? '')
        .split(' + ')
        .map((one) => one.replace(/ of .*/, ''));
      for (const word of [found.dialect, ...algorithms]) {
        expect(known).toContain(`${id} ${word}`);
        seen.add(`${id} ${word}`);
      }
    }
  }
  const expected = [
    'edit control-lora',
    'lora kohya',
    'lora dora',
    'lora peft',
    'video animatediff',
  ];
  expect([...seen]).toEqual(expect.arrayContaining(expected));
});
