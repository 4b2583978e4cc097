/**
 * Writes tables of what the packages weigh, need and read between `<!-- table: NAME -->` and `<!-- /table -->`
 * of pages. Sizes are measured from the built packages (`pnpm build` first) and differ a little from build to
 * build: one that is within 15 % or 10 kB stays as it is written. `--check` only says whether the tables are up
 * to date (exit 1).
 *
 *   pnpm docs:tables [page …] [--check]
 */

import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, realpathSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

import { findPlugins, formatsOf, installedFolder, PluginLoader, readPackage } from '@attune/core';

const root = join(import.meta.dirname, '..');
const { values, positionals } = parseArgs({
  options: { check: { type: 'boolean' } },
  allowPositionals: true,
});
const pages = positionals.length ? positionals : [join(root, 'docs/packages.md')];

const mega = 1e6;
const sizeText = (bytes) =>
  bytes >= 10 * mega
    ? `${Math.round(bytes / mega)} MB`
    : bytes >= mega
      ? `${(bytes / mega).toFixed(1)} MB`
      : `${Math.max(10, 10 * Math.round(bytes / 10_000))} kB`;
const sizeForm = /^(\d+(?:\.\d+)?) (kB|MB)$/;
const bytesIn = (text) => {
  const found = sizeForm.exec(text);
  return found ? Number(found[1]) * (found[2] === 'MB' ? mega : 1000) : undefined;
};

const names = readdirSync(join(root, 'packages')).filter((name) => !name.startsWith('.'));
const folderOf = (name) => join(root, 'packages', name);
const isOwn = (name) => name.startsWith('@attune/');

/** What npm says of a package as it would be published; no script of it runs. */
function packed(name) {
  const { stdout, stderr, status } = spawnSync(
    'npm',
    ['pack', '--dry-run', '--json', '--ignore-scripts', '--offline', '--no-update-notifier'],
    { cwd: folderOf(name), encoding: 'utf8', shell: process.platform === 'win32' },
  );
  if (status !== 0) throw new Error(`${name}: npm pack: ${stderr}`);
  const [{ size, unpackedSize, files }] = Object.values(JSON.parse(stdout));
  if (!files.some(({ path }) => path === 'dist/index.d.ts'))
    throw new Error(`packages/${name} has no dist/index.d.ts: pnpm build first.`);
  return [sizeText(size), sizeText(unpackedSize)];
}

/** What a package needs at run time whatever the platform: peers that are not optional included. */
function needsOf({ dependencies = {}, peerDependencies = {}, peerDependenciesMeta = {} }) {
  const peers = Object.keys(peerDependencies).filter((one) => !peerDependenciesMeta[one]?.optional);
  return [...new Set([...Object.keys(dependencies), ...peers])];
}

function bytesBelow(folder) {
  let bytes = 0;
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) bytes += entry.name === 'node_modules' ? 0 : bytesBelow(path);
    else if (entry.isFile()) bytes += statSync(path).size;
  }
  return bytes;
}

/** A package and everything below it, each once, by folder. */
function closure(name, from, found = new Map()) {
  const link = installedFolder(name, realpathSync(from));
  if (link === undefined) throw new Error(`${name}, needed in ${from}, is not installed.`);
  const folder = realpathSync(link);
  if (found.has(folder)) return found;
  const json = readPackage(folder);
  found.set(folder, json);
  for (const one of needsOf(json)) closure(one, folder, found);
  return found;
}

/** Third-party packages that ours name, with the short names of those that do. */
function direct() {
  const users = new Map();
  for (const name of names)
    for (const one of needsOf(readPackage(folderOf(name))).filter((need) => !isOwn(need)))
      users.set(one, [...(users.get(one) ?? []), name]);
  return [...users].toSorted(([a], [b]) => (a < b ? -1 : 1));
}

const code = (text) => `\`${text}\``;

function packagesTable() {
  return {
    head: ['package', 'packed', 'unpacked', 'its own dependencies'],
    rows: names.map((name) => [
      code(`@attune/${name}`),
      ...packed(name),
      needsOf(readPackage(folderOf(name)))
        .map((one) => one.replace('@attune/', ''))
        .join(', ') || 'none',
    ]),
  };
}

function dependenciesTable() {
  const all = new Map();
  const rows = direct().map(([name, users]) => {
    const found = closure(name, folderOf(users[0]));
    for (const [folder, json] of found) all.set(folder, json);
    const [[folder, { version, license }], ...others] = found;
    const parts = others.map(([, json]) => `${json.name} (${json.license})`).toSorted();
    return [
      `${code(name)} ${version}`,
      license,
      sizeText(bytesBelow(folder)),
      users.join(', '),
      parts.join(', ') || 'nothing',
    ];
  });
  const bytes = [...all.keys()].reduce((sum, folder) => sum + bytesBelow(folder), 0);
  return {
    head: ['dependency', 'licence', 'unpacked', 'used by', 'brings'],
    rows: [...rows, [`together, ${all.size} packages`, '', sizeText(bytes), '', '']],
  };
}

/** The kinds of docs/formats.md in a line each: what is loaded, what is written. */
async function formatsTable() {
  const loader = new PluginLoader(findPlugins(join(root, 'packages/cli')));
  const rows = [];
  for (const id of loader.ids('adapters').toSorted((a, b) => (a < b ? -1 : 1))) {
    const kind = await loader.get('adapters', id);
    const loaded = formatsOf(kind, id).filter(({ refusal }) => refusal === undefined);
    const each = (key) => [...new Set(loaded.map((format) => format[key]))].join(', ');
    rows.push([
      code(id),
      each('dialect'),
      each('algorithm'),
      (kind.dialects ?? []).join(', ') || 'none yet',
    ]);
  }
  return { head: ['kind', 'layouts read', 'algorithms', '`convert` writes'], rows };
}

const tables = {
  packages: packagesTable,
  dependencies: dependenciesTable,
  formats: formatsTable,
};

const isNear = (a, b) => Math.abs(a - b) <= Math.max(10_000, 0.15 * b);

/** A new table's lines, with the sizes that `before` has where they are near enough. */
function lines({ head, rows }, before) {
  const old = before.split('\n').map((line) => line.split(' | ').map((cell) => cell.trim()));
  const kept = (row, cell, column) => {
    const size = bytesIn(cell);
    if (size === undefined) return cell;
    const same = old.find(([first]) => first === `| ${row[0]}`);
    const was = bytesIn(same?.[column] ?? '');
    return was !== undefined && isNear(was, size) ? same[column] : cell;
  };
  return [head, head.map(() => '---'), ...rows]
    .map((row) => {
      const cells = row.map((cell, column) => kept(row, cell, column).replaceAll('|', '\\|'));
      return `| ${cells.join(' | ')} |`;
    })
    .join('\n');
}

const block = /(<!-- table: (\w+) -->\n)([\s\S]*?)(<!-- \/table -->)/g;
const made = new Map();
for (const page of pages) {
  const before = readFileSync(page, 'utf8');
  const blocks = [...before.matchAll(block)];
  if (blocks.length === 0)
    throw new Error(`${page} has no <!-- table: NAME --> … <!-- /table -->.`);
  for (const [, , name] of blocks) {
    if (!tables[name])
      throw new Error(`${page}: no table ${name}; there are ${Object.keys(tables).join(', ')}.`);
    if (!made.has(name)) made.set(name, await tables[name]());
  }
  const after = before.replaceAll(
    block,
    (_, open, name, old, close) => `${open}\n${lines(made.get(name), old)}\n\n${close}`,
  );
  if (after === before) continue;
  if (values.check) {
    console.error(`${page} is out of date: run pnpm docs:tables ${page}.`);
    process.exitCode = 1;
  } else writeFileSync(page, after);
}
