/** Where a stack comes from: its files with their hashes, the packages that read them, the terms they declare. */

import { existsSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { basename, dirname, join, resolve, sep } from 'node:path';

import { type Model, pulled, type StackEntry } from '@attune/core';
import { HashBook } from '@attune/engine';

import type { StackSession } from '../stack.ts';

export interface HashedFile {
  readonly file: string;
  readonly bytes: number;
  readonly sha256: string;
}

export interface Origin {
  /** `backbone`, or the adapter's name in the stack. */
  readonly name: string;
  /** The id of its kind in full, with the package and version that contributes it. */
  readonly kind?: string;
  readonly package?: string;
  readonly strength?: StackEntry['strength'];
  /** Whether it is part of what was exported. */
  readonly included: boolean;
  readonly files: readonly HashedFile[];
  /** As its files declare it; null where they do not. */
  readonly license: string | null;
}

/** The backbone and every adapter of a stack, in order; `included` says which of them were exported. */
export function originsOf(
  session: StackSession,
  model: Model,
  included: (name: string) => boolean = () => true,
): Origin[] {
  const { stack, folder, loader } = session;
  const heads = new Set(model.adapters.map(({ name }) => name));
  const backbone = backboneOf(session);
  const hashes = new HashBook();
  const origins: Origin[] = [
    {
      name: 'backbone',
      included: included('backbone'),
      files: hashed(
        filesOf(model, (head) => !heads.has(head)),
        hashes,
      ),
      ...backbone,
    },
  ];
  for (const { name: given, use, from, strength } of stack.adapters) {
    const { plugin, id } = loader.owner('adapters', use);
    const name = given ?? use.slice(use.indexOf('/') + 1);
    const adapter = model.adapters.find((one) => one.name === name);
    const path = from === undefined ? undefined : resolve(folder, pulled(from));
    const own = filesOf(model, (head) => head === name);
    if (path && statSync(path).isFile()) own.add(path);
    const { 'modelspec.license': declared } = adapter?.fileExtras?.metadata ?? {};
    origins.push({
      name,
      kind: id,
      package: `${plugin.package}@${plugin.version}`,
      strength: strength ?? 1,
      // One of strength 0 is in no stack.
      included: adapter !== undefined && included(name),
      files: hashed(own, hashes),
      license: adapter?.license ?? declared ?? declaredLicense(path, session),
    });
  }
  return origins;
}

function backboneOf(session: StackSession): Pick<Origin, 'package' | 'license'> {
  const { stack, folder, loader } = session;
  const { backbone } = stack;
  if (!loader.ids('backbones').includes(backbone))
    return { license: declaredLicense(resolve(folder, pulled(backbone)), session) };
  const { plugin } = loader.owner('backbones', backbone);
  return {
    package: `${plugin.package}@${plugin.version}`,
    license: plugin.license ?? null,
  };
}

/** The files that a model's weights lie in. */
function filesOf(model: Model, mine: (head: string) => boolean): Set<string> {
  const files = new Set<string>();
  for (const name of model.weights.names()) {
    if (!mine(name.slice(0, name.indexOf('.')))) continue;
    const file = model.weights.entry(name).source?.file;
    if (file !== undefined) files.add(file);
  }
  return files;
}

/** Hashes as `sha256sum` prints them. */
export const hashed = (files: Iterable<string>, hashes = new HashBook()): HashedFile[] =>
  Array.from(files, (file) => {
    const { size: bytes, sha256 } = hashes.of(file);
    return { file: named(file), bytes, sha256 };
  });

/** A file's name, with its folder's where many files are called so. */
const named = (file: string): string =>
  /^(diffusion_pytorch_model|model|adapter_model)\b/.test(basename(file))
    ? `${basename(dirname(file))}/${basename(file)}`
    : basename(file);

/**
 * What a file or folder says of its terms: `license:` in the head of a folder's README.md, as model hubs
 * have it; else, of what a bundled stack brings, the licence of its package.
 */
function declaredLicense(path: string | undefined, { bundledBy }: StackSession): string | null {
  if (path === undefined) return null;
  const readme = join(path, 'README.md');
  const text = existsSync(readme) ? readFileSync(readme, 'utf8').slice(0, 65_536) : '';
  const head = /^---\r?\n([\s\S]*?)\r?\n---/.exec(text)?.[1] ?? '';
  const told = /^license:\s*["']?([\w.+-]+)/m.exec(head)?.[1];
  const inside =
    bundledBy && realpathSync(path).startsWith(`${realpathSync(bundledBy.folder)}${sep}`);
  return told ?? (inside ? bundledBy.license : undefined) ?? null;
}
