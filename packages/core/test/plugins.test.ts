import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { describe, expect, test } from 'vitest';

import { createContainer, LoaderToken } from '../src/container.ts';
import { PluginLoader } from '../src/plugins/loader.ts';
import { findPlugins } from '../src/plugins/package.ts';

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

  test('a dependency that lies above its dependant, where npm puts it', () => {
    const project = fresh();
    const cli = join(project, 'node_modules', '@acme', 'cli');
    for (const [folder, json] of [
      [cli, { name: '@acme/cli', dependencies: { dep: '1' } }],
      [join(project, 'node_modules', 'dep'), { name: 'dep', attune: manifest }],
    ] as const) {
      mkdirSync(folder, { recursive: true });
      writeFileSync(join(folder, 'package.json'), JSON.stringify(json));
    }
    expect(findPlugins(cli).map((plugin) => plugin.package)).toEqual(['dep']);
  });

  test('a range of apis fits when this one is in it', () => {
    expect(loaderOf(write('wide', { attune: { ...manifest, api: [1, 3] } })).plugins).toHaveLength(
      1,
    );
    expect(() => loaderOf(write('late', { attune: { ...manifest, api: [2, 3] } }))).toThrow(
      /late@1\.2\.3 was written for plugin api 2 to 3; this attune speaks 1/,
    );
    expect(() => loaderOf(write('odd', { attune: { ...manifest, api: [3, 1] } }))).toThrow(/odd/);
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
      'No plugin contributes adapters "acme/glaw"; known: acme/glow; nearest: acme/glow. Nothing is installed by itself: add the package that contributes it to the project.',
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

const kindOf = async (name: string, code: string) =>
  (await loaderOf(write(name, { code })).get('adapters', 'acme/glow')) as unknown as Record<
    string,
    () => unknown
  >;
const glow = (body: string) =>
  `export default { api: 1, contributes: { adapters: { glow: ${body} } } };`;

describe('what a hook throws', () => {
  test.each([
    ['an object', '{ mark: 7, create() { return this.mark.no.such; } }'],
    ['a frozen object', 'Object.freeze({ mark: 7, create() { return this.mark.no.such; } })'],
    ['a class', 'new (class { #mark = 7; create() { return this.#mark.no.such; } })()'],
  ])('names the plugin and the hook: %s', async (_, body) => {
    const kind = await kindOf('clumsy', glow(body));
    expect(() => kind.create()).toThrow(
      /^The plugin clumsy@1\.2\.3 failed in create\(\) of adapters acme\/glow: Cannot read prop/,
    );
  });

  test('also when it comes later', async () => {
    const kind = await kindOf('late', glow('{ create: async () => { throw new Error("boom"); } }'));
    await expect(kind.create()).rejects.toThrow('failed in create() of adapters acme/glow: boom');
  });

  test('stays as it is where it was raised on purpose', async () => {
    const kind = await kindOf(
      'strict',
      glow(`{ create() {
        throw Object.assign(new Error('give a rank'), { [Symbol.for('@attune/error')]: true });
      } }`),
    );
    expect(() => kind.create()).toThrow(/^give a rank$/);
  });
});

const get = (folder: string, offline: boolean) =>
  new PluginLoader(findPlugins(fresh(), [folder]), { offline }).get('adapters', 'acme/glow');

test('offline, the code of a plugin that declares the network is refused', async () => {
  const online = write('online', { attune: { ...manifest, capabilities: ['network'] } });
  const quiet = write('quiet', { attune: { ...manifest, capabilities: ['read-files'] } });
  await expect(get(online, true)).rejects.toThrow(
    /plugin online declares that it uses the network/,
  );
  expect(await get(online, false)).toEqual({ mark: 7 });
  expect(await get(quiet, true)).toEqual({ mark: 7 });
});
