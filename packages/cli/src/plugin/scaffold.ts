/** A new plugin's package: names, and files from the templates. */

import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { builtinModules, createRequire } from 'node:module';
import { basename, dirname, join, relative, resolve } from 'node:path';

import { apiVersion, readPackage } from '@attune/core';
import { AttuneError } from '@attune/engine';

/** What can be scaffolded, and the kind of contribution that it is. */
export const scaffolds = { adapter: 'adapters', data: 'data', objective: 'objectives' } as const;
export type Scaffold = keyof typeof scaffolds;

/** The names of a plugin, from its package's. */
export interface PluginNames {
  /** Of the package, as npm knows it. */
  readonly name: string;
  readonly scope: string;
  /** Of what it contributes: `scope/id`. */
  readonly id: string;
  /** As stack files say it: an id that is its own scope is said once. */
  readonly use: string;
}

const packageName = /^(?:@[a-z0-9][a-z0-9._-]*\/)?[a-z0-9][a-z0-9._-]*$/;
const plainId = /^[a-z][a-z0-9-]*$/;

/** Scopes of this project's own plugins. */
export const ownScopes: readonly string[] = ['attune', 'pocket'];

export const isPackageName = (name: string): boolean =>
  packageName.test(name) &&
  name.length <= 214 &&
  !builtinModules.includes(name) &&
  !['node_modules', 'favicon.ico'].includes(name);

/** `@acme/attune-gain` contributes `acme/gain`; `attune-gain` contributes `gain/gain`, called `gain`. */
export function namesOf(name: string, given?: string): PluginNames {
  if (!isPackageName(name))
    throw new AttuneError(
      'BAD_NAME',
      `"${name}" is no name for a package: use lower-case letters, digits, "-", "." and "_" (attune-gain, @acme/attune-gain).`,
      { name },
    );
  const id = name.slice(name.indexOf('/') + 1).replace(/^attune-/, '');
  const scope = given ?? (name.startsWith('@') ? name.slice(1, name.indexOf('/')) : id);
  for (const part of [id, scope])
    if (!plainId.test(part))
      throw new AttuneError(
        'BAD_NAME',
        `"${part}" (of "${name}") is no part of an id: a lower-case letter, then lower-case letters, digits and "-".`,
        { name, part },
      );
  if (ownScopes.includes(scope))
    throw new AttuneError(
      'BAD_NAME',
      `The scope ${scope} is for attune's own plugins: give another one with --scope.`,
      { scope },
    );
  return { name, scope, id, use: scope === id ? id : `${scope}/${id}` };
}

/** Writes the package whole or not at all. Returns its files, relative to `folder`. */
export function scaffold(names: PluginNames, what: Scaffold, folder: string): string[] {
  const target = resolve(folder);
  if (existsSync(target))
    throw new AttuneError('EXISTS', `${folder} exists: choose another name or --out.`, { folder });
  const staging = join(dirname(target), `.${basename(target)}.${process.pid}.new`);
  const files = filesOf(names, what);
  try {
    for (const [path, text] of files) {
      mkdirSync(dirname(join(staging, path)), { recursive: true });
      writeFileSync(join(staging, path), text);
    }
    renameSync(staging, target);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new AttuneError('WRITE_FAILED', `${folder} could not be written: ${reason}.`);
  } finally {
    rmSync(staging, { recursive: true, force: true });
  }
  return [...files.keys()].toSorted();
}

function filesOf(names: PluginNames, what: Scaffold): Map<string, string> {
  const own = createRequire(import.meta.url).resolve('@attune/cli/package.json');
  const templates = join(dirname(own), 'templates');
  const files = new Map([
    ['package.json', `${JSON.stringify(packageOf(names, what), null, 2)}\n`],
    ['.gitignore', 'node_modules/\ndist/\n'],
  ]);
  for (const part of ['shared', what])
    for (const path of walk(join(templates, part)))
      files.set(
        // A file called LICENSE would pass for this package's own.
        filled(relative(join(templates, part), path), names).replace('__license__', 'LICENSE'),
        filled(readFileSync(path, 'utf8'), names),
      );
  return files;
}

const filled = (text: string, { name, id, use }: PluginNames): string =>
  text.replaceAll('__name__', name).replaceAll('__id__', id).replaceAll('__use__', use);

function walk(folder: string): string[] {
  return readdirSync(folder).flatMap((name) => {
    const path = join(folder, name);
    return statSync(path).isDirectory() ? walk(path) : [path];
  });
}

function packageOf({ name, scope, id, use }: PluginNames, what: Scaffold): object {
  const checks = ['attune plugin validate', ...(what === 'adapter' ? ['attune plugin test'] : [])];
  return {
    name,
    version: '0.1.0',
    description: `${use}: ${what === 'adapter' ? 'an' : what === 'objective' ? 'a training' : 'training'} ${what} for attune`,
    keywords: ['attune-plugin'],
    license: 'MIT',
    files: ['dist'],
    type: 'module',
    exports: {
      '.': { types: './dist/index.d.ts', default: './dist/index.js' },
      './package.json': './package.json',
    },
    scripts: {
      build: 'tsc',
      test: 'tsc && node --test',
      check: ['tsc', ...checks].join(' && '),
      prepack: 'tsc',
    },
    dependencies: { zod: `^${versionOf('zod')}` },
    // One copy of these in a project, whoever brings it: tensors of two copies do not mix.
    peerDependencies: {
      '@attune/core': `^${versionOf('@attune/core')}`,
      '@attune/engine': `^${versionOf('@attune/engine')}`,
    },
    devDependencies: { '@attune/cli': `^${versionOf('@attune/cli')}`, typescript: '^6.0.3' },
    engines: { node: '>=20.19' },
    attune: { api: apiVersion, scope, contributes: { [scaffolds[what]]: [id] }, capabilities: [] },
  };
}

/** The version of a package that this command works with. */
function versionOf(name: string): string {
  const file = createRequire(import.meta.url).resolve(`${name}/package.json`);
  return (readPackage(dirname(file)) as { version: string }).version;
}
