import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { describe, expect, test } from 'vitest';

import { createContainer, LoaderToken } from '../src/container.ts';
import { findPlugins, PluginLoader } from '../src/plugins/loader.ts';

const fresh = () => mkdtempSync(join(tmpdir(), 'plugins-'));

interface Package {
  readonly attune?: object;
  readonly code?: string;
  /** What package.json says beside the name and the manifest. */
  readonly rest?: object;
}

const manifest = { scope: 'acme', api: 1, contributes: { adapters: ['glow'] } };
const working = 'export default { api: 1, contributes: { adapters: { glow: { mark: 7 } } } };';

/** A package on disk. */
function write(
  name: string,
  { attune = manifest, code = working, rest = { exports: './index.js' } }: Package = {},
): string {
  const folder = join(fresh(), name);
  mkdirSync(folder, { recursive: true });
  const json = { name, version: '1.2.3', type: 'module', license: 'MIT', attune, ...rest };
  writeFileSync(join(folder, 'package.json'), JSON.stringify(json));
  writeFileSync(join(folder, 'index.js'), code);
  return folder;
}

const loaderOf = (...folders: readonly string[]) => new PluginLoader(findPlugins(fresh(), folders));

describe('finding plugins', () => {
  test('reads manifests, and runs no code', () => {
    const folder = write('quiet', { code: 'throw new Error("ran")' });
    const [plugin] = findPlugins(fresh(), [folder]);
    expect(plugin).toEqual({
      package: 'quiet',
      version: '1.2.3',
      license: 'MIT',
      folder,
      manifest: { ...manifest, capabilities: [] },
    });
    expect(loaderOf(folder).ids('adapters')).toEqual(['acme/glow']);
  });

  test('among the dependencies of the nearest package.json, above as well', () => {
    const project = fresh();
    const dependency = join(project, 'node_modules', 'dep');
    mkdirSync(join(project, 'deep', 'er'), { recursive: true });
    mkdirSync(dependency, { recursive: true });
    writeFileSync(
      join(project, 'package.json'),
      JSON.stringify({ name: 'mine', dependencies: { dep: '1', gone: '1' } }),
    );
    writeFileSync(
      join(dependency, 'package.json'),
      JSON.stringify({ name: 'dep', attune: manifest }),
    );
    const found = findPlugins(join(project, 'deep', 'er'));
    expect(found.map((plugin) => plugin.package)).toEqual(['dep']);
  });

  test.each([
    ['another api', { ...manifest, api: 2 }, /old@1\.2\.3 was written for plugin api 2.*speaks 1/],
    ['an unknown kind', { ...manifest, contributes: { adaptors: ['x'] } }, /old.*bad "attune"/s],
    ['a bad id', { ...manifest, contributes: { adapters: ['Glow!'] } }, /lower-case letters/],
    ['an unknown key', { ...manifest, scopes: 'x' }, /scopes/],
  ])('%s is an error that names the package', (_, attune, message) => {
    expect(() => loaderOf(write('old', { attune }))).toThrow(message);
  });

  test('a path without a package.json is an error', () => {
    expect(() => findPlugins(fresh(), ['nowhere'])).toThrow(/nowhere has no package\.json/);
  });

  test('an id claimed twice names both packages', () => {
    expect(() => loaderOf(write('one'), write('two'))).toThrow(
      /^acme\/glow is contributed by both one \(.*\) and two \(.*\): remove one\.$/,
    );
  });
});

describe('loading plugins', () => {
  test.each([
    ['exports as a string', { exports: './index.js' }],
    ['exports by condition', { exports: { '.': { types: './no.d.ts', import: './index.js' } } }],
    ['exports without a dot', { exports: { node: { default: './index.js' } } }],
    ['main', { main: 'index.js' }],
    ['nothing', {}],
  ])('an entry given by %s', async (_, rest) => {
    const loader = loaderOf(write('entry', { rest }));
    expect(await loader.get('adapters', 'acme/glow')).toEqual({ mark: 7 });
  });

  test('through the container, at first use and once', async () => {
    const counting = `globalThis.counted = (globalThis.counted ?? 0) + 1;\n${working}`;
    const plugins = findPlugins(fresh(), [write('counting', { code: counting })]);
    const loader = createContainer(plugins).get(LoaderToken);
    expect('counted' in globalThis).toBe(false);
    await loader.get('adapters', 'acme/glow');
    await loader.get('adapters', 'acme/glow');
    expect((globalThis as { counted?: number }).counted).toBe(1);
  });

  test('an unknown id is answered with the nearest', async () => {
    await expect(loaderOf(write('near')).get('adapters', 'acme/glaw')).rejects.toThrow(
      'No plugin contributes adapters "acme/glaw"; known: acme/glow; nearest: acme/glow.',
    );
  });

  test.each([
    ['throws', 'throw new Error("boom")', /The plugin bad@1\.2\.3 \(.*\) cannot be loaded: boom/],
    ['has no default export', 'export const x = 1;', /bad@.*no default export from definePlugin/],
    [
      'speaks another api',
      'export default { api: 9, contributes: {} };',
      /bad@.*its code speaks api 9/,
    ],
    [
      'lacks what its manifest declares',
      'export default { api: 1, contributes: {} };',
      /The plugin bad declares adapters "glow" in package\.json, but its code does not/,
    ],
  ])('code that %s is an error that names the plugin', async (_, code, message) => {
    await expect(loaderOf(write('bad', { code })).get('adapters', 'acme/glow')).rejects.toThrow(
      message,
    );
  });
});
