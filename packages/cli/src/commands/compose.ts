/** attune compose: adapters stacked from the shell, as a stack file. */

import { existsSync, linkSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, extname, relative, resolve } from 'node:path';

import {
  inventory,
  isCommit,
  isHubReference,
  type Model,
  nominalDims,
  type PluginLoader,
  pulled,
  type StackEntry,
  type StackFile,
  stackText,
} from '@attune/core';
import { AttuneError } from '@attune/engine';
import { Command } from 'commander';

import { inspect } from '../inspect/verdict.ts';
import { openWhole } from '../probe/model.ts';
import { openStackSession } from '../stack.ts';
import { printable, say } from '../terminal.ts';

interface Options {
  readonly out?: string;
  readonly check?: boolean;
  readonly force?: boolean;
  readonly json?: boolean;
}

export const composeCommand = (): Command =>
  new Command('compose')
    .description('stack adapters on a model and write the stack file')
    .argument(
      '<base>',
      'a model folder, a bundled model, hf:owner/name, or a stack.yaml to stack on',
    )
    .argument(
      '[adapters...]',
      'in order: file, folder or hf:…, as [name=]path[@strength] or name:kind=path[@strength]',
    )
    .option('-o, --out <stack.yaml>', 'where to write; its paths are relative to it')
    .option('--check', 'open the stack and say what acts where; writes nothing without --out')
    .option('--force', 'replace a stack file that exists')
    .option('--json', 'one JSON object on stdout')
    .addHelpText(
      'after',
      '\nExample:\n  $ attune compose ./sd15 ./controlnet look=style.safetensors@0.8 -o stack.yaml',
    )
    .action(composeAction);

async function composeAction(
  base: string,
  adapters: readonly string[],
  { out, check, force, json }: Options,
): Promise<void> {
  if (!out && !check)
    throw new AttuneError('USAGE', 'Say where the stack goes (--out stack.yaml), or --check it.');
  if (out && !/\.ya?ml$/.test(out))
    throw new AttuneError('USAGE', `${out}: a stack file ends in .yaml.`);
  if (out && !force && existsSync(out))
    throw new AttuneError('EXISTS', `${out} exists: choose another name or pass --force.`);
  const { stack, folder, loader } = await openStackSession(base);
  const entries: StackEntry[] = [...stack.adapters];
  const target = resolve(dirname(out ?? base));
  const moved = (path: string): string => placed(resolve(folder, path), target, path);
  const whole: StackFile = {
    ...stack,
    backbone:
      loader.ids('backbones').includes(stack.backbone) || isHubReference(stack.backbone)
        ? stack.backbone
        : place(moved(stack.backbone)),
    ...(stack.config === undefined ? {} : { config: moved(stack.config) }),
    adapters: entries.map((entry) =>
      entry.from === undefined ? entry : { ...entry, from: moved(entry.from) },
    ),
    plugins: stack.plugins.map(moved),
  };
  for (const spec of adapters)
    whole.adapters.push(await entryOf(spec, { target, loader, taken: whole.adapters }));
  // What does not open is not written.
  const model = await openWhole({ stack: whole, folder: target }, loader);
  if (out) write(out, stackText(whole), force ?? false);
  const rows = summary(model, whole.adapters);
  if (json) console.log(JSON.stringify({ path: out ?? null, adapters: rows }));
  else {
    for (const row of rows)
      console.log(
        printable(
          `${row.name.padEnd(16)} ${row.kind.padEnd(12)} ${String(row.parameters).padStart(10)} parameters  strength ${JSON.stringify(row.strength)}${row.trains ? '  trains' : ''}`,
        ),
      );
    if (rows.length === 0) console.log('no adapters');
    if (out) say(`wrote ${out}`);
  }
}

interface Place {
  /** The folder that paths of the stack file are relative to. */
  readonly target: string;
  readonly loader: PluginLoader;
  readonly taken: readonly StackEntry[];
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
async function entryOf(spec: string, { target, loader, taken }: Place): Promise<StackEntry> {
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
  const use = parts.use ?? (await kindOf(path, loader));
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

async function kindOf(path: string, loader: PluginLoader): Promise<string> {
  const { verdict, kind, reason, fix } = await inspect(pulled(path), { loader });
  if (verdict === 'refused')
    throw new AttuneError('REFUSED', printable(`${path} is refused: ${reason}. Way out: ${fix}.`));
  if (kind !== null && loader.ids('adapters').includes(kind)) return kind;
  throw new AttuneError('NO_ADAPTER', `${path} is no adapter but a ${kind ?? 'file of no kind'}.`);
}

interface Row {
  readonly name: string;
  readonly kind: string;
  /** Values of its weights. */
  readonly parameters: number;
  readonly strength: StackEntry['strength'];
  readonly trains: boolean;
}

function summary(model: Model, entries: readonly StackEntry[]): Row[] {
  const { params } = inventory(model, nominalDims);
  return entries.map(({ name, use, strength = 1, train }) => {
    const own = name ?? use.slice(use.indexOf('/') + 1);
    const parameters = [...params.values()]
      .filter((param) => param.name.startsWith(`${own}.`))
      .reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
    return { name: own, kind: use, parameters, strength, trains: train !== undefined };
  });
}

/** Writes a file whole or not at all; without `force` a file that came meanwhile is kept. */
function write(path: string, text: string, force: boolean): void {
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    writeFileSync(temporary, text);
    if (force) renameSync(temporary, path);
    else linkSync(temporary, path);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new AttuneError('WRITE_FAILED', `${path} could not be written: ${reason}.`);
  } finally {
    rmSync(temporary, { force: true });
  }
}

/** A bare word is a bundled model's id: a folder beside the stack file is written with a dot. */
const place = (path: string): string => (/^[\w-]+$/.test(path) ? `./${path}` : path);
