/** docs/plugins.md: its package, as it stands there, scaffolded, built, tested, checked and named in a stack. */

import { spawnSync } from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

import { type AdapterKind, NoiseSchedule, type SamplerKind } from '@attune/core';
import { beforeAll, describe, expect, test } from 'vitest';

import { buildTypes, done } from './registry.ts';

const page = readFileSync('docs/plugins.md', 'utf8');
const bin = resolve('packages/cli/bin/attune.js');
const place = mkdtempSync(join(tmpdir(), 'guide-'));
const author = join(place, 'attune-squeeze');

/** The block under `<!-- file: name -->`. */
const files = new Map(
  [...page.matchAll(/<!-- file: (\S+) -->\s*```\w+\n([\s\S]*?)```/g)].map(([, name, text]) => [
    name,
    text,
  ]),
);

function link(folder: string, names: Readonly<Record<string, string>>): void {
  mkdirSync(join(folder, 'node_modules', '@attune'), { recursive: true });
  for (const [name, target] of Object.entries(names))
    symlinkSync(resolve(target), join(folder, 'node_modules', name));
}

const attune = (cwd: string, ...args: readonly string[]) =>
  spawnSync(process.execPath, [bin, ...args], { cwd, encoding: 'utf8', timeout: 300_000 });

beforeAll(() => {
  buildTypes();
  const [, command] = /```sh\n(attune plugin new [^\n]*)\n```/.exec(page)!;
  done(process.execPath, [bin, ...command.split(' ').slice(1)], place);
  for (const [name, text] of files)
    if (name.startsWith('attune-squeeze/')) writeFileSync(join(place, name), text);
  link(author, {
    '@attune/core': 'packages/core',
    '@attune/engine': 'packages/engine',
    '@attune/cli': 'packages/cli',
    zod: 'node_modules/zod',
  });
  // What `tsc` of the package's own settings says.
  done(process.execPath, [resolve('node_modules/typescript/bin/tsc')], author);
}, 600_000);

test('every block of code is one that is tried here', () => {
  const fenced = [...page.matchAll(/^```(\w+)$/gm)].filter(([, language]) => language !== 'sh');
  expect(files.size).toBe(fenced.length);
  expect([...files.keys()]).toHaveLength(new Set(files.keys()).size);
  expect(readdirSync(join(author, 'dist'))).toEqual(
    expect.arrayContaining(['index.d.ts', 'index.js', 'more.js', 'tint.js']),
  );
});

test('its own tests and both checks pass', { timeout: 600_000 }, () => {
  const tap = done(process.execPath, ['--test', '--test-reporter=tap'], author);
  expect(tap).toMatch(/^# fail 0$/m);
  expect(Number(/^# pass (\d+)$/m.exec(tap)?.[1])).toBeGreaterThan(10);
  const { checks } = JSON.parse(attune(author, 'plugin', 'validate', '--json').stdout) as {
    checks: { verdict: string }[];
  };
  expect(checks.filter(({ verdict }) => verdict !== 'ok')).toEqual([]);
  const laws = attune(author, 'plugin', 'test');
  expect(laws.stdout).toMatch(/acme\/squeeze \{"width":4\}: 12 of 12 laws kept/);
  expect(laws.status).toBe(0);
});

test('a project that depends on it stacks it', { timeout: 300_000 }, () => {
  const user = join(place, 'project');
  link(user, {
    'attune-squeeze': author,
    '@attune/core': 'packages/core',
    '@attune/engine': 'packages/engine',
  });
  writeFileSync(join(user, 'package.json'), '{ "dependencies": { "attune-squeeze": "*" } }');
  writeFileSync(join(user, 'squeeze.yaml'), files.get('squeeze.yaml')!);
  const { status, stdout, stderr } = attune(user, 'compose', 'squeeze.yaml', '--check', '--json');
  expect(`${status}${stderr}`).toMatch(/^0/);
  const { adapters } = JSON.parse(stdout) as { adapters: { kind: string }[] };
  expect(adapters.map(({ kind }) => kind)).toEqual(['acme/squeeze']);
});

const built = (name: string): Promise<unknown> =>
  import(pathToFileURL(join(author, 'dist', name)).href);

describe('beside the package', () => {
  test('the manifest is one that the checks accept', async () => {
    const { readManifest } = await import('../packages/core/src/plugins/manifest.ts');
    const found = readManifest(JSON.parse(files.get('manifest.json')!), author);
    expect(found?.manifest).toMatchObject({
      scope: 'acme',
      contributes: { adapters: ['squeeze'] },
    });
  });

  test('the adapter with a port keeps all laws', { timeout: 300_000 }, () => {
    const script = [
      "import { checkAdapter } from '@attune/core/testing';",
      "import { tint } from './dist/tint.js';",
      "const found = await checkAdapter((given) => tint({ name: 'probe', ...given }));",
      'console.log(JSON.stringify(found));',
    ].join('\n');
    writeFileSync(join(author, 'laws.mjs'), script);
    const findings = JSON.parse(done(process.execPath, ['laws.mjs'], author)) as {
      ok: boolean;
      law: string;
      detail: string;
    }[];
    expect(findings.filter(({ ok }) => !ok)).toEqual([]);
    expect(findings.find(({ law }) => law.startsWith('every port'))?.detail).toBe('1 ports');
  });

  test('the sampler makes a plan, denser towards the clean end', async () => {
    const { power } = (await built('more.js')) as { power: SamplerKind };
    const schedule = NoiseSchedule.of({ _class_name: 'DDIMScheduler' });
    const { steps } = power.create(power.options.parse({}))(schedule, 10);
    const times = steps.map(({ t }) => t);
    expect(times[0]).toBe(999);
    const gaps = times.slice(1).map((t, i) => times[i] - t);
    expect(gaps).toEqual(gaps.toSorted((a, b) => b - a));
    expect(gaps.at(-1)).toBeGreaterThan(0);
  });

  test('the hooks of the guide are those that a kind has', async () => {
    const { kind } = (await built('index.js')) as { kind: AdapterKind };
    const told = [...page.matchAll(/^\| (`[^|]*`) \|/gm)].flatMap(([, cell]) =>
      [...cell.matchAll(/`(\w+)/g)].map(([, name]) => name),
    );
    for (const hook of Object.keys(kind)) expect(told).toContain(hook);
  });
});

test('every error of the guide is one that the code raises, in these words', () => {
  const sources = readdirSync('packages', { encoding: 'utf8' }).flatMap((name) =>
    readdirSync(join('packages', name, 'src'), { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.ts'))
      .map((file) => readFileSync(join('packages', name, 'src', file), 'utf8')),
  );
  const rows = [...page.matchAll(/^\| `([A-Z_]+)` \| `([^`]+)` \|/gm)];
  expect(rows.length).toBeGreaterThan(12);
  for (const [, code, words] of rows)
    expect(
      sources.some((text) => text.includes(`'${code}'`)) &&
        sources.some((text) => text.includes(words)),
      `${code}: ${words}`,
    ).toBe(true);
});
