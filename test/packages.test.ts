/** Every package as npm would get it: what linters of packages say, what it holds, what it needs. */

import { readFileSync } from 'node:fs';
import { basename, resolve } from 'node:path';

import { publint } from 'publint';
import { beforeAll, describe, expect, test } from 'vitest';

import { surveyCode } from '../packages/cli/src/plugin/code.ts';
import { done, packWorkspace } from './registry.ts';

let tarballs: readonly string[];

beforeAll(() => {
  tarballs = packWorkspace();
}, 300_000);

interface PackageJson {
  readonly name: string;
  readonly license?: string;
  readonly dependencies?: object;
  readonly peerDependencies?: object;
  readonly attune?: object;
  readonly [key: string]: unknown;
}

const folders = [
  'engine',
  'core',
  'edit',
  'inversion',
  'lora',
  'video',
  'fdd',
  'eval',
  'pocket',
  'cli',
];
const names = folders.map((name) =>
  ['edit', 'inversion', 'lora', 'video'].includes(name) ? `adapter-${name}` : name,
);

describe.each(names)('@attune/%s', (name) => {
  const folder = resolve('packages', name);
  const json = JSON.parse(readFileSync(`${folder}/package.json`, 'utf8')) as PackageJson;
  const tarball = (): string => {
    const found = tarballs.find((path) => basename(path).startsWith(`attune-${name}-`));
    if (!found) throw new Error(`nothing was packed for ${name}`);
    return found;
  };

  test('publint has nothing to say', async () => {
    const { buffer } = readFileSync(tarball());
    const { messages } = await publint({ pack: { tarball: buffer }, strict: true });
    expect(messages).toEqual([]);
  });

  test('its types are right for those who import it', { timeout: 120_000 }, () => {
    const bin = resolve('node_modules/@arethetypeswrong/cli/dist/index.js');
    const args = [bin, tarball(), '--profile', 'esm-only', '--no-emoji', '--no-color'];
    // It exits with 1 where anything is wrong for code that imports.
    expect(done(process.execPath, args, '.')).toMatch(/node16 \(from ESM\) *│ OK \(ESM\)/);
  });

  test('holds a README, a licence and its code, and no tests', () => {
    const files = done('tar', ['tzf', tarball()], '.').trim().split('\n');
    for (const file of ['README.md', 'LICENSE', 'dist/index.js', 'dist/index.d.ts'])
      expect(files).toContain(`package/${file}`);
    expect(
      files.filter(
        (file) => /\.test\.|\/test\/|\/runs\//.test(file) && !file.includes('/templates/'),
      ),
    ).toEqual([]);
    expect(json.license).toBe('Apache-2.0');
    expect(json.private).toBeUndefined();
    expect(json.repository).toBeUndefined();
  });

  test('depends on all that it imports', async () => {
    const declared = Object.keys({ ...json.dependencies, ...json.peerDependencies });
    for (const entry of ['dist/index.js', 'dist/testing.js'].filter((file) =>
      files(tarball()).includes(`package/${file}`),
    )) {
      const { packages, broken } = await surveyCode(folder, entry);
      expect(broken).toEqual([]);
      expect(
        [...packages.keys()].filter((one) => !declared.includes(one) && one !== json.name),
      ).toEqual([]);
    }
  });

  test('is a right plugin, if it is one', () => {
    if (!json.attune) return expect(folder).toMatch(/(engine|eval|fdd|cli)$/);
    const bin = resolve('packages/cli/bin/attune.js');
    const out = done(process.execPath, [bin, 'plugin', 'validate', folder, '--json'], '.');
    expect(JSON.parse(out)).toMatchObject({ ok: true });
  });
});

const files = (tarball: string): string[] => done('tar', ['tzf', tarball], '.').trim().split('\n');
