/** attune compose: adapters stacked from the shell, as a stack file. */

import { existsSync, linkSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, extname, relative, resolve } from 'node:path';

import {
  isCommit,
  isHubReference,
  lockFileOf,
  lockText,
  type PluginLoader,
  pulled,
  type StackEntry,
  type StackFile,
  stackText,
  type StrengthEntry,
} from '@attune/core';
import { AttuneError } from '@attune/engine';
import { Command } from 'commander';

import { inspect } from '../inspect/verdict.ts';
import { report } from '../report/stack.ts';
import { collectRoute, type GivenRoutes, movedImages, routeHelp, withRoutes } from '../routes.ts';
import { type LockOptions, openStackSession, type StackSession } from '../stack.ts';
import { printable } from '../terminal.ts';
import { trusted } from '../trust.ts';
import { positive, type RuntimeChoice, runtimeOf } from './arguments.ts';

interface Options extends LockOptions, RuntimeChoice {
  readonly out?: string;
  readonly check?: boolean;
  readonly lock?: boolean;
  readonly proof: boolean;
  readonly frames?: number;
  readonly force?: boolean;
  readonly route: GivenRoutes;
  readonly allowPartial?: boolean;
  readonly json?: boolean;
}

export const composeCommand = (): Command =>
  new Command('compose')
    .description('stack adapters on a model, check the stack, and write it with its lock')
    .argument(
      '<base>',
      'a model folder, a bundled model, hf:owner/name, or a stack.yaml to stack on',
    )
    .argument(
      '[adapters...]',
      'in order: file, folder or hf:…, as [name=]path[@strength] or name:kind=path[@strength]',
    )
    .option('-o, --out <stack.yaml>', 'where to write; its paths are relative to it')
    .option('--check', 'say what fits, what acts and whether the lock is up to date')
    .option('--lock', 'write the lock of a stack file as it is')
    .option('--frames <n>', 'frames at once that the stack is to be used with', positive)
    .option('--no-proof', 'do not run the stack to see that each adapter acts')
    .option('--route <port=source>', routeHelp, collectRoute, {})
    .option('--force', 'replace a stack file that exists')
    .option('--allow-partial', 'take adapters whose files fit in part, and list what is skipped')
    .option('--json', 'one JSON object on stdout')
    .addHelpText(
      'after',
      '\nExample:\n  $ attune compose ./sd15 ./controlnet look=style.safetensors@0.8 -o stack.yaml',
    )
    .action(composeAction);

async function composeAction(
  base: string,
  adapters: readonly string[],
  options: Options,
): Promise<void> {
  const { out, lock: locks = false, frames, json, allowPartial = false } = options;
  checkUsage(adapters, options);
  const session = await openStackSession(base, runtimeOf(options), options);
  const { file, loader } = session;
  if (locks && file === undefined)
    throw new AttuneError('USAGE', `--lock: ${base} is a model, and only a stack file has a lock.`);
  const target = resolve(dirname(out ?? file ?? base));
  const whole = withRoutes(movedTo(target, session), options.route, (image) =>
    placed(resolve(image), target, image),
  );
  for (const spec of adapters)
    whole.adapters.push(
      await entryOf(spec, { target, loader, taken: whole.adapters, partial: allowPartial }),
    );
  if (allowPartial)
    for (const entry of whole.adapters) if (entry.from !== undefined) entry.allow_partial = true;
  const asItIs = adapters.length === 0 && Object.keys(options.route).length === 0;
  const lockedAs = out ?? (asItIs ? file : undefined);
  // What does not fit together, or does nothing, is not written.
  const found = await trusted({ stack: whole, folder: target }, session, {
    verify: options.verify ?? false,
    proof: options.proof,
    anew: out !== undefined || locks,
    ...(frames === undefined ? {} : { frames }),
    ...(lockedAs === undefined ? {} : { lockedAs }),
  });
  await session.runtime.release();
  const written = locks ? file : out;
  if (written !== undefined) {
    const lock = { path: lockFileOf(written), text: lockText(found.lock), force: true };
    const stack = { path: written, text: stackText(whole), force: options.force ?? false };
    write(locks ? [lock] : [stack, lock]);
  }
  report(found, whole.adapters, { written: written ?? null, lockedAs, json: json ?? false });
}

const usage = (what: string): AttuneError => new AttuneError('USAGE', what);

function checkUsage(
  adapters: readonly string[],
  { out, check, lock, force, route, allowPartial }: Options,
): void {
  if (!out && !check && !lock)
    throw usage('Say where the stack goes (--out stack.yaml), --check it, or --lock it.');
  if (lock && (out || adapters.length > 0 || Object.keys(route).length > 0))
    throw usage('--lock locks a stack file as it is; adapters and routes go into a new one (--out).');
  if (lock && allowPartial)
    throw usage('--lock locks a stack file as it is: say allow_partial: true in its entries.');
  if (out && !/\.ya?ml$/.test(out)) throw usage(`${out}: a stack file ends in .yaml.`);
  if (out && !force && existsSync(out))
    throw new AttuneError('EXISTS', `${out} exists: choose another name or pass --force.`);
}

/** A stack with its paths relative to another folder. */
function movedTo(target: string, { stack, folder, loader }: StackSession): StackFile {
  const moved = (path: string): string => placed(resolve(folder, path), target, path);
  return {
    ...stack,
    backbone:
      loader.ids('backbones').includes(stack.backbone) || isHubReference(stack.backbone)
        ? stack.backbone
        : place(moved(stack.backbone)),
    ...(stack.config === undefined ? {} : { config: moved(stack.config) }),
    adapters: stack.adapters.map((entry) => ({
      ...entry,
      ...(entry.from === undefined ? {} : { from: moved(entry.from) }),
      ...(entry.strength === undefined ? {} : { strength: movedMasks(entry.strength, moved) }),
    })),
    ...(stack.routes ? { routes: movedImages(stack.routes, moved) } : {}),
    plugins: stack.plugins.map(moved),
  };
}

/** A strength with the paths of its masks changed. */
function movedMasks(strength: StrengthEntry, moved: (path: string) => string): StrengthEntry {
  if (typeof strength === 'number') return strength;
  return Object.fromEntries(
    Object.entries(strength).map(([key, value]: [string, StrengthEntry | string]) => [
      key,
      key === 'mask' && typeof value === 'string'
        ? moved(value)
        : typeof value === 'object' && !Array.isArray(value)
          ? movedMasks(value, moved)
          : value,
    ]),
  ) as StrengthEntry;
}

interface Place {
  /** The folder that paths of the stack file are relative to. */
  readonly target: string;
  readonly loader: PluginLoader;
  readonly taken: readonly StackEntry[];
  readonly partial: boolean;
}

const syntax =
  /^(?:(?<name>[A-Za-z_][\w-]*)(?::(?<use>[\w-]+(?:\/[\w-]+)?))?=)?(?<path>.+?)(?:@(?<strength>[-+\w.]+))?$/;

/** The parts of an argument. After an hf: reference only a number is a strength: `@v1.0` is its revision. */
function partsOf(spec: string): Partial<Record<string, string>> | undefined {
  const parts = syntax.exec(spec)?.groups;
  const { path = '', strength } = parts ?? {};
  if (!isHubReference(path) || strength === undefined) return parts;
  const isStrength = Number.isFinite(Number(strength)) && !isCommit(strength);
  return isStrength ? parts : { ...parts, path: `${path}@${strength}`, strength: undefined };
}

/** A path for the stack file: relative to it, or the hub's reference as it is. */
const placed = (whole: string, target: string, given: string): string =>
  isHubReference(given) ? given : relative(target, whole) || '.';

/** One argument as an entry; its kind is what `inspect` says the file is, unless it is given. */
async function entryOf(
  spec: string,
  { target, loader, taken, partial }: Place,
): Promise<StackEntry> {
  // A path that exists may hold any character, also "=" and "@".
  const parts = existsSync(spec) ? { path: spec } : partsOf(spec);
  const path = parts?.path;
  if (!path || !existsSync(pulled(path)))
    throw new AttuneError('MISSING_FILE', `${path ?? spec} does not exist (from "${spec}").`);
  const strength = parts.strength === undefined ? undefined : Number(parts.strength);
  if (strength !== undefined && !Number.isFinite(strength))
    throw new AttuneError(
      'BAD_STRENGTH',
      `"${spec}": the strength ${parts.strength} is no finite number.`,
    );
  const use = parts.use ?? (await kindOf(path, loader, partial));
  const names = new Set(taken.map(({ name, use: other }) => name ?? other));
  const own = use.slice(use.indexOf('/') + 1);
  // The kind's own name is the plainest one; the next adapter of a kind is called as its file.
  const name = parts.name ?? (names.has(own) ? plain(path) : own);
  return {
    ...(name === own ? {} : { name }),
    use,
    from: placed(resolve(path), target, path),
    ...(strength === undefined ? {} : { strength }),
  };
}

const plain = (path: string): string =>
  basename(path, extname(path))
    .replaceAll(/[^\w-]+/g, '_')
    .replace(/^(?![A-Za-z_])/, '_');

/** With `partial` also of a file that is not whole: what of it fits is seen when the stack is opened. */
async function kindOf(path: string, loader: PluginLoader, partial: boolean): Promise<string> {
  const { verdict, kind, reason, fix } = await inspect(pulled(path), { loader });
  const known = kind !== null && loader.ids('adapters').includes(kind);
  if (verdict === 'refused' && !(partial && known))
    throw new AttuneError('REFUSED', printable(`${path} is refused: ${reason}. Way out: ${fix}.`));
  if (known) return kind;
  throw new AttuneError('NO_ADAPTER', `${path} is no adapter but a ${kind ?? 'file of no kind'}.`);
}

/** Writes files whole or not at all; without `force` one that came meanwhile is kept, and nothing is written. */
function write(files: readonly { path: string; text: string; force: boolean }[]): void {
  const staged = files.map((file) => ({ ...file, temporary: `${file.path}.${process.pid}.tmp` }));
  let at = files[0].path;
  try {
    for (const { path, temporary, text } of staged) {
      at = path;
      writeFileSync(temporary, text);
    }
    for (const { path, temporary, force } of staged) {
      at = path;
      if (force) renameSync(temporary, path);
      else linkSync(temporary, path);
    }
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new AttuneError('WRITE_FAILED', `${at} could not be written: ${reason}.`);
  } finally {
    for (const { temporary } of staged) rmSync(temporary, { force: true });
  }
}

/** A bare word is a bundled model's id: a folder beside the stack file is written with a dot. */
const place = (path: string): string => (/^[\w-]+$/.test(path) ? `./${path}` : path);
