/** The lock of a stack: what exactly it was made of, so that it can be told whether it still is. */

import { createHash } from 'node:crypto';
import { existsSync, readdirSync, realpathSync, statSync } from 'node:fs';
import { basename, isAbsolute, join, relative } from 'node:path';

import { AttuneError, type FileHash, type HashBook, type Weights } from '@attune/engine';
import { z } from 'zod';

import { readJson } from '../models/folder.ts';
import { companionFiles } from '../models/load.ts';
import type { PluginLoader } from '../plugins/loader.ts';
import { trainingPart } from '../schedule/noise.ts';
import { cardLicense } from './declared.ts';
import { placeOf, type StackParts } from './open.ts';
import { checkFile, entryName, type StackFile } from './schema.ts';
import { termsOf } from './terms.ts';

const File = z.strictObject({ size: z.number(), sha256: z.string() });
const Files = z.record(z.string(), File);
const License = z.string().nullable();

/** How much an adapter changes, relative to what it changes; see `prove`. */
export const Proof = z.strictObject({
  /** The change of the outputs that its absence makes. */
  left_out: z.number(),
  /** The change that it makes alone on the backbone. */
  alone: z.number(),
  /** Norm of its deltas in a block, relative to the values that they became part of. */
  blocks: z.record(z.string(), z.number()),
});
/** The load proof of one adapter. */
export type Proof = z.infer<typeof Proof>;

/** stack.lock.json. It names contents, by SHA-256, and never places, so that it can be shared. */
export const StackLock = z.strictObject({
  version: z.literal(1),
  backbone: z.strictObject({
    use: z.string(),
    weights: z.string().optional(),
    license: License,
    files: Files,
  }),
  /** The noise it is sampled with, and what its prediction means. */
  schedule: z.looseObject({}).nullable(),
  /** What inputs and ports are fed, where the stack says it; a picture by its contents. */
  routes: z.record(z.string(), z.unknown()).optional(),
  /** Names of the adapters, in order. */
  order: z.array(z.string()),
  adapters: z.record(
    z.string(),
    z.strictObject({
      use: z.string(),
      plugin: z.string(),
      /** A mask by its contents. */
      strength: z.unknown(),
      train: z.unknown(),
      stills: z.boolean(),
      options: z.unknown(),
      trained_with: z.looseObject({}).nullable(),
      license: License,
      /** By their place in the adapter's folder; a file alone by its name. */
      files: Files,
    }),
  ),
  /** The packages whose code the stack runs. */
  plugins: z.record(
    z.string(),
    z.strictObject({ version: z.string(), license: License, capabilities: z.array(z.string()) }),
  ),
  license: z.strictObject({
    strictest: License,
    asks: z.string().nullable(),
    unknown: z.array(z.string()),
  }),
  /** The load proof, and the fingerprint of what it was made with. */
  proof: z.strictObject({ of: z.string(), adapters: z.record(z.string(), Proof) }).optional(),
});
/** A checked lock. */
export type StackLock = z.infer<typeof StackLock>;

/** The place of a stack file's or a recipe's lock: stack.yaml has stack.lock.json. */
export const lockFileOf = (stackFile: string): string =>
  stackFile.replace(/\.ya?ml$/, '.lock.json');

/** A lock as the text of its file. */
export const lockText = (lock: StackLock): string => `${JSON.stringify(lock, null, 2)}\n`;

/** The lock beside a stack file, if there is one. Throws BAD_JSON or BAD_CONFIG for a broken one. */
export function readLock(stackFile: string): StackLock | undefined {
  const file = lockFileOf(stackFile);
  return existsSync(file) ? checkFile(StackLock, readJson(file), file) : undefined;
}

/** What a stack is made of now, without a proof. */
export function lockOf(
  { backbone: use, license: given }: StackFile,
  { folder, path, config, weights, backbone, parts, routes, model }: StackParts,
  loader: PluginLoader,
  hashes: HashBook,
): StackLock {
  const bundled = loader.ids('backbones').includes(use)
    ? loader.owner('backbones', use).plugin
    : undefined;
  const classes = Object.values(backbone.configs ?? {}).flatMap((one) => {
    const { _class_name: name } = Object(one) as { _class_name?: unknown };
    return typeof name === 'string' && name.includes('/') ? [name] : [];
  });
  const owners = [
    ...(bundled ? [bundled] : []),
    ...classes.map((id) => loader.owner('nets', id).plugin),
    ...parts.map(({ entry }) => loader.owner('adapters', entry.use).plugin),
  ];
  const contents = (file: string): unknown => contentsOf(placeOf(file, folder), hashes);
  const base = {
    use: bundled ? use : basename(path),
    ...(weights === undefined ? {} : { weights }),
    license: given ?? bundled?.license ?? cardLicense(path) ?? null,
    files: {
      ...hashed(path, [...filesOf(backbone.weights), ...companionFiles(path)], hashes),
      ...(config === undefined ? {} : hashed(config, companionFiles(config), hashes)),
    },
  };
  const adapters = parts.map(({ entry, options, file, declared, adapter }) => [
    adapter.name,
    {
      use: entry.use,
      plugin: loader.owner('adapters', entry.use).plugin.package,
      strength: withContents(entry.strength ?? 1, 'mask', contents),
      train: entry.train ?? false,
      stills: entry.stills ?? true,
      options: plain(options),
      trained_with: declared.trainedWith ?? null,
      license: declared.license ?? null,
      files: file
        ? hashed(file.path, [...filesOf(file.weights), ...configsOf(file.path)], hashes)
        : {},
    },
  ]);
  const lock = {
    version: 1,
    backbone: base,
    schedule: model.schedule ? trainingPart(model.schedule.config) : null,
    ...(Object.keys(routes).length > 0 ? { routes: withContents(routes, 'image', contents) } : {}),
    order: parts.map(({ entry }) => entryName(entry)),
    adapters: Object.fromEntries(adapters) as StackLock['adapters'],
    plugins: Object.fromEntries(
      owners
        .toSorted((a, b) => (a.package < b.package ? -1 : 1))
        .map((owner) => [
          owner.package,
          {
            version: owner.version,
            license: owner.license ?? null,
            capabilities: owner.manifest.capabilities,
          },
        ]),
    ),
  };
  const terms = termsOf(
    new Map([
      ['backbone', base.license],
      ...Object.entries(lock.adapters).map(([name, { license }]) => [name, license] as const),
    ]),
  );
  return StackLock.parse({ ...lock, license: terms });
}

/** Of a file its hash, of a folder of frames those of its files. */
const contentsOf = (path: string, hashes: HashBook): FileHash | Record<string, FileHash> =>
  isFolder(path)
    ? Object.fromEntries(
        readdirSync(path)
          .toSorted()
          .map((name) => [name, hashes.of(join(path, name))]),
      )
    : hashes.of(path);

/** A tree with what the file under each `key` holds in the place of its path. */
function withContents(tree: unknown, key: string, contents: (file: string) => unknown): unknown {
  if (tree === null || typeof tree !== 'object' || Array.isArray(tree)) return tree;
  return Object.fromEntries(
    Object.entries(tree).map(([name, value]) => [
      name,
      name === key && typeof value === 'string'
        ? contents(value)
        : withContents(value, key, contents),
    ]),
  );
}

/** A value as JSON keeps it. */
const plain = (value: unknown): unknown => JSON.parse(JSON.stringify(value ?? null)) as unknown;

/** The files that weights come from. */
function filesOf(weights: Weights): Set<string> {
  const files = new Set<string>();
  for (const name of weights.names()) {
    const { source, origin } = weights.entry(name);
    const file = source?.file ?? origin;
    if (file !== undefined) files.add(file);
  }
  return files;
}

const configsOf = (path: string): string[] =>
  isFolder(path)
    ? readdirSync(path)
        .filter((name) => /^(adapter_)?config\.json$|\.index(\.\w+)?\.json$/.test(name))
        .map((name) => join(path, name))
    : [];

const isFolder = (path: string): boolean =>
  statSync(path, { throwIfNoEntry: false })?.isDirectory() ?? false;

/** Files by their place below a root; what lies elsewhere (a link's target), and a root that is a file, by name. */
function hashed(root: string, files: readonly string[], hashes: HashBook): z.infer<typeof Files> {
  const real = realpathSync(root);
  const named = files.map((file) => {
    const places = [relative(root, file), relative(real, realpathSync(file))];
    const place = places.find((one) => one !== '' && !one.startsWith('..') && !isAbsolute(one));
    return [place?.replaceAll('\\', '/') ?? basename(file), hashes.of(file)] as const;
  });
  return Object.fromEntries(named.toSorted(([a], [b]) => (a < b ? -1 : 1)));
}

/** What a proof was made with, as one hash: everything in the lock beside the proof. */
export function fingerprint({ proof: _, ...lock }: StackLock): string {
  return createHash('sha256')
    .update(JSON.stringify([...flat(lock)].toSorted(([a], [b]) => (a < b ? -1 : 1))))
    .digest('hex');
}

/** The proof of a lock where it is one of this very stack. */
export const currentProof = (
  remembered: StackLock | undefined,
  lock: StackLock,
): StackLock['proof'] =>
  remembered?.proof?.of === fingerprint(lock) ? remembered.proof : undefined;

/** Where two locks differ, a line each: `adapters.look.files.look.safetensors.sha256: 1f2e… → 99ab…`. Empty: nowhere. */
export function lockDiff(
  { proof: _before, ...before }: StackLock,
  { proof: _now, ...now }: StackLock,
): string[] {
  const [a, b] = [flat(before), flat(now)];
  return [...new Set([...a.keys(), ...b.keys()])]
    .filter((key) => a.get(key) !== b.get(key))
    .map((key) => `${key}: ${short(a.get(key))} → ${short(b.get(key))}`);
}

/** Every value of a tree as JSON, by its dotted place. */
function flat(tree: unknown, at = ''): Map<string, string> {
  const entries = tree !== null && typeof tree === 'object' ? Object.entries(tree) : [];
  if (entries.length === 0 || Array.isArray(tree)) return new Map([[at, JSON.stringify(tree)]]);
  return new Map(
    entries.flatMap(([key, value]) => [...flat(value, at === '' ? key : `${at}.${key}`)]),
  );
}

function short(json: string | undefined): string {
  if (json === undefined) return 'none';
  const hash = /^"([0-9a-f]{12})[0-9a-f]{52}"$/.exec(json);
  return hash ? `${hash[1]}…` : json;
}

/** The lock of a recipe: of each of its stacks, by what it is there (`stack`, `student`, `teachers.video`). */
export const RecipeLock = z.strictObject({
  version: z.literal(1),
  stacks: z.record(z.string(), StackLock),
});

/** The lock of a recipe's stacks as the text of its file. */
export const recipeLockText = (stacks: Readonly<Record<string, StackLock>>): string =>
  `${JSON.stringify({ version: 1, stacks }, null, 2)}\n`;

/** As `refuseDrift`, of all the stacks of a recipe; `command` is the one that runs it. */
export function refuseRecipeDrift(
  recipe: string,
  stacks: Readonly<Record<string, StackLock>>,
  command: string,
): void {
  const file = lockFileOf(recipe);
  const again = `attune ${command} ${recipe} --lock`;
  if (!existsSync(file)) throw noLock(recipe, again);
  const { stacks: locked } = checkFile(RecipeLock, readJson(file), file);
  const lines = [...new Set([...Object.keys(locked), ...Object.keys(stacks)])].flatMap((name) => {
    const [before, now] = [locked[name], stacks[name]];
    if (before && now) return lockDiff(before, now).map((line) => `${name}.${line}`);
    return [`${name}: ${before ? 'locked → none' : 'none → there'}`];
  });
  if (lines.length) throw drifted(recipe, lines, again);
}

/** Throws LOCK_DRIFT, with the differences, for a stack that is not what its lock says; NO_LOCK without one. */
export function refuseDrift(stackFile: string, lock: StackLock): void {
  const locked = readLock(stackFile);
  const again = `attune compose ${stackFile} --lock`;
  if (!locked) throw noLock(stackFile, again);
  const lines = lockDiff(locked, lock);
  if (lines.length) throw drifted(stackFile, lines, again);
}

const noLock = (file: string, again: string): AttuneError =>
  new AttuneError(
    'NO_LOCK',
    `${file} has no ${basename(lockFileOf(file))} beside it: write one with ${again}.`,
    { file },
  );

const drifted = (file: string, lines: readonly string[], again: string): AttuneError =>
  new AttuneError(
    'LOCK_DRIFT',
    `${file} is not what ${basename(lockFileOf(file))} says (locked → now):\n${lines.map((line) => `  ${line}`).join('\n')}\nPut the files back, or lock it anew with ${again}.`,
    { file, lines },
  );
