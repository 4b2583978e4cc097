/** attune plugin: scaffolds that work, lists that run nothing, checks that find what is wrong. */

import { existsSync, mkdirSync, readdirSync, writeFileSync, cpSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { beforeAll, describe, expect, test } from 'vitest';

import {
  at,
  attune,
  build,
  changed,
  link,
  place,
  refused,
  scaffold,
  validated,
} from './plugin-scene.ts';
import { done } from './registry.ts';

beforeAll(scaffold, 300_000);

describe('plugin new', () => {
  test.each([
    ['adapter', 'attune-spark', 'spark'],
    ['data', '@acme/attune-stripes', 'acme/stripes'],
    ['objective', 'attune-sharpness', 'sharpness'],
  ])(
    'a package of kind %s passes its own tests and all checks',
    { timeout: 900_000 },
    (kind, name, use) => {
      const made = attune(place, 'plugin', 'new', name, '--kind', kind, '--json');
      expect(`${made.status}${made.stderr}`).toBe('0');
      const { folder, use: called } = JSON.parse(made.stdout) as { folder: string; use: string };
      expect(called).toBe(use);
      for (const file of ['README.md', 'LICENSE', '.gitignore', 'tsconfig.json'])
        expect(existsSync(join(folder, file))).toBe(true);
      for (const file of readdirSync(folder, { recursive: true, encoding: 'utf8' }))
        expect(file).not.toMatch(/__/);
      link(folder);
      build(folder);
      const tap = done(process.execPath, ['--test', '--test-reporter=tap'], folder);
      expect(tap).toMatch(/^# fail 0$/m);
      expect(Number(/^# pass (\d+)$/m.exec(tap)?.[1])).toBeGreaterThan(2);
      const report = validated(folder);
      expect(report.checks.filter(({ verdict }) => verdict !== 'ok')).toEqual([]);
    },
  );

  test.each([
    ['a folder that exists', ['attune-glow'], /attune-glow exists/],
    ['capitals', ['Glow'], /"Glow" is no name for a package/],
    ['a path', ['../glow'], /no name for a package/],
    ['a module of Node', ['fs'], /no name for a package/],
    ['no id', ['attune-1'], /"1" \(of "attune-1"\) is no part of an id/],
    ['a scope of ours', ['glow', '--scope', 'attune'], /scope attune is for attune's own plugins/],
    ['an id that is there', ['attune-lora'], /adapter "lora" is there already/],
    ['an unknown kind', ['glow', '--kind', 'sampler'], /--kind/],
  ])('refuses %s', (_, args, message) => {
    const before = readdirSync(place).toSorted();
    refused(attune(place, 'plugin', 'new', ...args), 2, message);
    expect(readdirSync(place).toSorted()).toEqual(before);
  });
});

describe('plugin list', () => {
  test('runs no code, and shows those that cannot be used', () => {
    const project = at('listed');
    const packages = {
      crash: {
        version: '1.0.0',
        license: 'MIT',
        attune: {
          scope: 'acme',
          api: 1,
          contributes: { adapters: ['crash'] },
          capabilities: ['network'],
        },
      },
      old: { version: '2.0.0', attune: { scope: 'old', api: 9, contributes: {} } },
      odd: { version: '3.0.0', attune: { scope: 'Odd' } },
      twin: {
        version: '4.0.0',
        attune: { scope: 'acme', api: [1, 2], contributes: { adapters: ['crash'] } },
      },
      plain: { version: '5.0.0' },
    };
    const dependencies = Object.fromEntries(Object.keys(packages).map((name) => [name, '*']));
    mkdirSync(project);
    writeFileSync(join(project, 'package.json'), JSON.stringify({ name: 'mine', dependencies }));
    for (const [name, json] of Object.entries(packages)) {
      const folder = join(project, 'node_modules', name);
      mkdirSync(folder, { recursive: true });
      writeFileSync(
        join(folder, 'package.json'),
        JSON.stringify({ name, main: 'index.js', ...json }),
      );
      writeFileSync(join(folder, 'index.js'), 'process.exit(3);');
    }
    const { status, stdout, stderr } = attune(project, 'plugin', 'list', '--json');
    expect(stderr).toBe('');
    expect(status).toBe(0);
    const { plugins } = JSON.parse(stdout) as { plugins: Record<string, unknown>[] };
    const named = (name: string) => plugins.find((one) => one.package === name);
    expect(named('crash')).toMatchObject({
      version: '1.0.0',
      api: 1,
      license: 'MIT',
      contributes: { adapters: ['acme/crash'] },
      capabilities: ['network'],
      origin: 'dependency of the project here',
      folder: join(project, 'node_modules', 'crash'),
      problem: null,
    });
    expect(named('old')?.problem).toMatch(/old@2\.0\.0 was written for plugin api 9/);
    expect(named('odd')?.problem).toMatch(/odd has a bad "attune" entry/);
    expect(named('twin')?.problem).toMatch(/acme\/crash is contributed by crash, too/);
    expect(named('plain')).toBeUndefined();
    expect(named('@attune/core')?.origin).toBe('built in');
    const text = attune(project, 'plugin', 'list').stdout;
    expect(text).toMatch(
      /^crash@1\.0\.0\n {2}from +dependency.*\n {2}about +api 1, MIT, capabilities: network\n {2}adapters +acme\/crash$/m,
    );
    expect(text).toMatch(/not used +The plugin old/);
  });

  test('with the plugins of a stack', () => {
    writeFileSync(at('stack.yaml'), 'backbone: pocket\nplugins: [./attune-glow]\n');
    const { stdout } = attune(tmpdir(), 'plugin', 'list', '--stack', at('stack.yaml'), '--json');
    const { plugins } = JSON.parse(stdout) as { plugins: Record<string, unknown>[] };
    expect(plugins.find((one) => one.package === 'attune-glow')?.origin).toBe(
      'plugins of the stack',
    );
  });
});

describe('plugin validate', () => {
  test.each<
    [string, string, (json: Record<string, unknown>) => void, (code: string) => string, RegExp]
  >([
    [
      'manifest',
      'an api that does not fit',
      (json) => Object.assign(json.attune as object, { api: 7 }),
      (code) => code,
      /api 7; this attune speaks 1/,
    ],
    [
      'manifest',
      'a manifest with an unknown key',
      (json) => Object.assign(json.attune as object, { scopes: 1 }),
      (code) => code,
      /scopes/,
    ],
    ['package', 'no licence', (json) => delete json.license, (code) => code, /no "license"/],
    [
      'exports',
      'exports that lead nowhere',
      (json) => Object.assign(json.exports as object, { './more': './dist/more.js' }),
      (code) => code,
      /dist\/more\.js is not there/,
    ],
    [
      'ids',
      'an id of another package',
      (json) => {
        json.attune = { api: 1, scope: 'attune', contributes: { adapters: ['lora', 'glow'] } };
      },
      (code) => code,
      /adapters attune\/lora is contributed by both attune-glow and @attune\/adapter-lora/,
    ],
    [
      'code',
      'an id that the code lacks',
      (json) =>
        Object.assign(json.attune as object, { contributes: { adapters: ['glow', 'gleam'] } }),
      (code) => code,
      /declares adapters gleam, the code does not contribute it/,
    ],
    [
      'code',
      'an id that the manifest lacks',
      (json) => Object.assign(json.attune as object, { contributes: {} }),
      (code) => code,
      /contributes adapters glow, package\.json does not declare it/,
    ],
    [
      'code',
      'code that throws',
      () => {},
      (code) => `${code}\nthrow new Error('boom');`,
      /attune-glow@0\.1\.0 .* cannot be loaded: boom/,
    ],
    [
      'code',
      'a hook that is missing',
      () => {},
      (code) => code.replace(/\bcreate:/, 'make:'),
      /adapters glow: create is missing/,
    ],
    [
      'options',
      'options that take any key',
      () => {},
      (code) => code.replace('z.strictObject', 'z.object'),
      /takes keys it does not know/,
    ],
    [
      'dependencies',
      'an import that is no dependency',
      (json) => {
        json.dependencies = {};
      },
      (code) => code,
      /dist\/index\.js imports zod, which is no dependency/,
    ],
    [
      'dependencies',
      'a peer in another version',
      (json) => Object.assign(json.peerDependencies as object, { '@attune/core': '^99.0.0' }),
      (code) => code,
      /@attune\/core is installed as .*, which \^99\.0\.0 excludes/,
    ],
    [
      'files',
      'files that leave the code out',
      (json) => {
        json.files = ['src'];
      },
      (code) => code,
      /"files" leaves out dist\/index\.js/,
    ],
  ])('%s: %s', (check, name, manifest, code, message) => {
    const report = validated(changed(name.replaceAll(/\W+/g, '-'), manifest, code));
    expect(report.ok).toBe(false);
    const failed = report.checks.filter(({ verdict }) => verdict === 'fail');
    expect(failed.map((one) => one.check)).toContain(check);
    expect(failed.find((one) => one.check === check)?.detail).toMatch(message);
  });

  test('code that ends the process does not pass', () => {
    const folder = changed(
      'exits',
      () => {},
      (code) => `process.exit(0);\n${code}`,
    );
    refused(attune(folder, 'plugin', 'validate'), 1, /ended the process/);
    const waits = changed(
      'waits',
      () => {},
      (code) => `await new Promise(() => {});\n${code}`,
    );
    refused(attune(waits, 'plugin', 'test'), 1, /waits for what never comes/);
  });

  test('a folder that is no package, and one that is no plugin', () => {
    refused(attune(place, 'plugin', 'validate', 'nowhere'), 2, /nowhere has no package\.json/);
    mkdirSync(at('bare'));
    writeFileSync(at('bare', 'package.json'), '{ "name": "bare" }');
    refused(attune(place, 'plugin', 'validate', 'bare'), 1, /bare fails 1 of 1 checks: manifest/);
  });
});

describe('plugin test', () => {
  test('law by law, with figures', { timeout: 120_000 }, () => {
    const { status, stdout, stderr } = attune(
      at('attune-glow'),
      'plugin',
      'test',
      '--set',
      'scale=2',
    );
    expect(`${status}${stderr.replaceAll(/.*checking its laws\n/g, '')}`).toBe('0');
    expect(stdout).toMatch(/^acme\/glow \{"scale":2\}: 12 of 12 laws kept$/m);
    expect(stdout).toMatch(
      /ok {4}the gradient reaches every parameter of it and nothing else\n +\d+ parameters/,
    );
    expect(stdout).toMatch(/relative curvature \d/);
    expect(stdout).not.toMatch(/FAIL/);
  });

  test('a broken law is named, and the exit says so', { timeout: 120_000 }, () => {
    // Its gains start at 1.
    const folder = changed(
      'eager',
      () => {},
      (code) => code.replace('[channels], zeros', '[channels], ones').replace('zeros', 'ones'),
    );
    const { status, stdout, stderr } = attune(folder, 'plugin', 'test', '--json');
    expect(status).toBe(1);
    expect(stderr).toMatch(/^attune: attune-glow breaks 1 of 12 laws\.$/m);
    const { ok, adapters } = JSON.parse(stdout) as {
      ok: boolean;
      adapters: { findings: { law: string; ok: boolean; detail: string }[] }[];
    };
    expect(ok).toBe(false);
    const broken = adapters[0].findings.filter((one) => !one.ok);
    expect(broken.map(({ law }) => law)).toEqual(['starts as the identity']);
    expect(broken[0].detail).toMatch(/changes the result by \d/);
    expect(attune(folder, 'plugin', 'test', '--acts-from-start').status).toBe(0);
  });

  test('what a hook throws names the plugin, and a wrong option the right one', () => {
    const folder = changed(
      'clumsy',
      () => {},
      (code) => code.replace(/create: \(.*\) =>/, 'create: () => undefined.nothing ??'),
    );
    const { status, stdout } = attune(folder, 'plugin', 'test');
    expect(status).toBe(1);
    expect(stdout).toMatch(
      /The plugin attune-glow@0\.1\.0 failed in create\(\) of adapters acme\/glow/,
    );
    const wrong = attune(at('attune-glow'), 'plugin', 'test', '--set', 'scalle=2');
    expect(wrong.status).toBe(1);
    expect(wrong.stdout).toMatch(/did you mean "scale"/);
  });

  test('offline, a plugin that declares the network is refused', () => {
    const folder = changed('online', (json) =>
      Object.assign(json.attune as object, { capabilities: ['network'] }),
    );
    refused(
      attune(folder, 'plugin', 'test', '--offline'),
      2,
      /attune-glow declares that it uses the network/,
    );
  });

  test('two copies of the engine are told apart', () => {
    const folder = changed('copies', () => {});
    const copy = join(folder, 'node_modules', '@attune', 'engine');
    done('rm', [copy], folder);
    mkdirSync(copy);
    cpSync(resolve('packages/engine/package.json'), join(copy, 'package.json'));
    refused(attune(folder, 'plugin', 'test'), 2, /uses the @attune\/engine in .*npx attune/);
  });
});
