/** Tables made by scripts/tables.mjs: up to date, and what is not is found; sizes may differ a little. */

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { beforeAll, expect, test } from 'vitest';

import { buildTypes } from './registry.ts';

const script = (...args: readonly string[]) =>
  spawnSync(process.execPath, ['scripts/tables.mjs', ...args], {
    encoding: 'utf8',
    timeout: 120_000,
  });

beforeAll(() => buildTypes(), 300_000);

test('pages with tables are up to date', { timeout: 120_000 }, () => {
  const pages = ['README.md', 'docs/packages.md'].filter((page) =>
    readFileSync(page, 'utf8').includes('<!-- table: '),
  );
  expect(pages).toContain('docs/packages.md');
  const { status, stderr } = script(...pages, '--check');
  expect([status, stderr]).toEqual([0, '']);
});

test(
  'what is out of date is found and written anew; a size that is near stays',
  { timeout: 300_000 },
  () => {
    const page = join(mkdtempSync(join(tmpdir(), 'page-')), 'page.md');
    const whole = readFileSync('docs/packages.md', 'utf8');
    // Without the table for which every package is packed.
    const text = whole.replace(/<!-- table: packages -->[\s\S]*?<!-- \/table -->/, '');
    const edited = (from: RegExp, to: string): void => {
      const changed = text.replace(from, to);
      expect(changed).not.toBe(text);
      writeFileSync(page, changed);
    };
    edited(/(`yaml` [\d.]+ \|) ISC/, '$1 MIT');
    expect(script(page, '--check').status).toBe(1);
    expect(script(page).status).toBe(0);
    expect(readFileSync(page, 'utf8')).toBe(text);

    edited(/(`zod` [\d.]+ \| MIT \|) [\d.]+ MB/, '$1 1.0 MB');
    expect(script(page, '--check').status).toBe(1);

    const [, mega] = /`zod` [\d.]+ \| MIT \| ([\d.]+) MB/.exec(text)!;
    edited(/(`zod` [\d.]+ \| MIT \|) [\d.]+ MB/, `$1 ${(Number(mega) * 1.05).toFixed(1)} MB`);
    expect(script(page, '--check').status).toBe(0);

    writeFileSync(page, 'Before.\n\n<!-- table: formats -->\n<!-- /table -->\n\nAfter.\n');
    expect(script(page).status).toBe(0);
    expect(readFileSync(page, 'utf8')).toMatch(
      /^Before\.\n\n<!-- table: formats -->\n\n\| kind .*\| `video` \|/s,
    );

    writeFileSync(page, '<!-- table: prices -->\n<!-- /table -->\n');
    expect(script(page)).toMatchObject({
      status: 1,
      stderr: expect.stringMatching(/no table prices/),
    });
    writeFileSync(page, 'No tables.\n');
    expect(script(page).status).toBe(1);
  },
);

test('typedoc asks every package for documentation', () => {
  const { packagesRequiringDocumentation: asked } = JSON.parse(
    readFileSync('typedoc.json', 'utf8'),
  ) as { packagesRequiringDocumentation: string[] };
  expect(asked).toEqual(readdirSync('packages').map((name) => `@attune/${name}`));
});
