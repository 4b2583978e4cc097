/** Checks of a plugin's package.json against its folder: what npm would publish, and what that needs. */

import { spawnSync } from 'node:child_process';
import { existsSync, realpathSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

import { entryOf, installedFolder, readPackage } from '@attune/core';
import { satisfies, valid, validRange } from 'semver';

import { type Candidate, type CheckResult, type Loaded, reasonOf, verdictOf } from './check.ts';
import { isPackageName } from './scaffold.ts';

/** Name, version, licence: what everybody is shown. */
export function checkAbout({ json }: Candidate): CheckResult {
  const { name, version, license, keywords } = json;
  const wrong = [
    ...(typeof name === 'string' && isPackageName(name)
      ? []
      : [`${said(name)} is no package name`]),
    ...(typeof version === 'string' && valid(version)
      ? []
      : [`version ${said(version)} is none: write x.y.z`]),
    ...(typeof license === 'string' && license !== ''
      ? []
      : ['no "license": stacks that use it could not be shared (an SPDX name, such as MIT)']),
  ];
  const notes = [
    ...(json.private === true ? ['"private": npm will not publish it'] : []),
    ...(Array.isArray(keywords) && keywords.includes('attune-plugin')
      ? []
      : ['without the keyword attune-plugin nobody finds it on npm']),
    ...(json.description === undefined ? ['no "description"'] : []),
  ];
  return verdictOf('package', [name, version, license].map(said).join(', '), wrong, notes);
}

const said = (value: unknown): string =>
  typeof value === 'string' ? value : (JSON.stringify(value) ?? 'nothing');

/** Every file that `exports` names is there. */
export function checkExports({ folder, json }: Candidate): CheckResult {
  const targets = [...new Set([entryOf(json), ...targetsOf(json.exports)])];
  const missing = targets.filter((file) => !file.includes('*') && !existsSync(join(folder, file)));
  return verdictOf(
    'exports',
    `import gives ${entryOf(json)}`,
    missing.map((file) => `${file} is not there: build the package, or correct "exports"`),
    targets.some((file) => file.endsWith('.d.ts')) ? [] : ['no types for those who import it'],
  );
}

/** The files that an `exports` entry names, whatever the condition, except sources of a build. */
function targetsOf(entry: unknown): string[] {
  if (typeof entry === 'string') return [entry];
  return Object.values(Object(entry) as object).flatMap(targetsOf);
}

/** What the code imports comes with the package, in a version that fits, and core only once. */
export function checkPeers({ folder, json, code }: Loaded): CheckResult {
  const { dependencies = {}, peerDependencies = {}, optionalDependencies = {} } = json;
  const declared = { ...dependencies, ...optionalDependencies, ...peerDependencies };
  const wrong: string[] = [];
  const notes: string[] = [];
  for (const [name, file] of code.packages)
    if (!(name in declared) && name !== json.name)
      wrong.push(`${file} imports ${name}, which is no dependency`);
  for (const [name, range] of Object.entries(declared)) {
    const optional = json.peerDependenciesMeta?.[name]?.optional ?? name in optionalDependencies;
    const problem = installedProblem(name, range, folder);
    if (problem !== undefined && !(optional && problem.startsWith('is not installed')))
      wrong.push(`${name} ${problem}`);
  }
  for (const name of shared) {
    const copy = otherCopy(name, folder);
    if (copy !== undefined) wrong.push(copy);
    else if (name in dependencies)
      notes.push(`${name} is a dependency: as a peer dependency it never comes twice`);
  }
  const peers = Object.entries(peerDependencies).map(([name, range]) => `${name} ${range}`);
  return verdictOf('dependencies', peers.join(', ') || 'no peers', wrong, notes);
}

/** Packages of which a project must have one copy: tensors of two do not mix. */
const shared = ['@attune/core', '@attune/engine'] as const;

function installedProblem(name: string, range: string, folder: string): string | undefined {
  const found = installedFolder(name, folder);
  if (found === undefined) return 'is not installed: npm install';
  if (validRange(range) === null) return undefined; // a path, a tag, a workspace's own
  const { version } = Object(readPackage(found)) as { version?: string };
  return satisfies(version ?? '', range, { includePrerelease: true })
    ? undefined
    : `is installed as ${version}, which ${range} excludes`;
}

/** The copy of a package that a plugin would use, where it is not this command's. */
export function otherCopy(name: string, folder: string): string | undefined {
  const found = installedFolder(name, folder);
  if (found === undefined) return undefined;
  const own = dirname(createRequire(import.meta.url).resolve(`${name}/package.json`));
  const [theirs, ours] = [realpathSync(found), realpathSync(own)];
  return theirs === ours
    ? undefined
    : `it uses the ${name} in ${theirs}, this command the one in ${ours}: run the attune that is installed beside it (npx attune)`;
}

/** What `npm publish` would send: all that is imported, a README, a licence; no secrets. */
export function checkPack({ folder, json, code }: Loaded): CheckResult {
  let packed: Packed;
  try {
    packed = pack(folder);
  } catch (error) {
    return verdictOf('files', '', [`npm cannot pack it: ${reasonOf(error)}`]);
  }
  const names = new Set(packed.files.map(({ path }) => path));
  const entry = entryOf(json).replace(/^\.\//, '');
  const needed = new Set([
    entry,
    ...targetsOf(json.exports).map((file) => file.replace(/^\.\//, '')),
    ...code.files,
  ]);
  const has = (form: RegExp): boolean => [...names].some((name) => form.test(name));
  const wrong = [
    ...[...needed]
      .filter((file) => !names.has(file) && !file.includes('*'))
      .map((file) => `"files" leaves out ${file}`),
    ...(has(/^readme/i) ? [] : ['no README']),
    ...[...names]
      .filter((name) => /(^|\/)(\.env|\.npmrc|id_rsa|node_modules)(\/|\.|$)/.test(name))
      .map((name) => `${name} would be published`),
  ];
  const size = `${names.size} files, ${(packed.size / 1000).toFixed(1)} kB packed`;
  return verdictOf('files', size, wrong, has(/^licen[cs]e/i) ? [] : [`${size}, no LICENSE file`]);
}

interface Packed {
  readonly size: number;
  readonly files: readonly { readonly path: string }[];
}

/** npm's own word on what it would pack; runs no script of the package and needs no network. */
function pack(folder: string): Packed {
  const { stdout, stderr, error, status } = spawnSync(
    'npm',
    ['pack', '--dry-run', '--json', '--ignore-scripts', '--offline', '--no-update-notifier'],
    { cwd: folder, encoding: 'utf8', shell: process.platform === 'win32', timeout: 120_000 },
  );
  if (error) throw error;
  if (status !== 0) throw new Error(stderr.trim().split('\n').at(-1));
  const [packed] = Object.values(JSON.parse(stdout) as Record<string, Packed>);
  return packed;
}
