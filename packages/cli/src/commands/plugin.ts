/** attune plugin: packages of one's own, from the first file to the laws they must keep. */

import { existsSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';

import { parseYaml, readPlugin } from '@attune/core';
import { AttuneError } from '@attune/engine';
import { Command, Option } from 'commander';
import { z } from 'zod';

import { otherCopy } from '../plugin/checks-package.ts';
import { examine, type Trial } from '../plugin/conformance.ts';
import { type ListedPlugin, listPlugins } from '../plugin/listing.ts';
import { namesOf, type Scaffold, scaffold, scaffolds } from '../plugin/scaffold.ts';
import { validatePlugin } from '../plugin/validate.ts';
import { isOffline, openSession } from '../session.ts';
import { readStack } from '../stack.ts';
import { printable, progress, say } from '../terminal.ts';
import { collect, settingsOf } from './arguments.ts';

export function pluginCommand(): Command {
  const command = new Command('plugin')
    .description('make, list and check plugins')
    .addHelpText('after', '\nExample:\n  $ attune plugin new attune-gain --scope acme');
  command
    .command('new')
    .description('scaffold a plugin’s package, tests included')
    .argument('<name>', 'of the package: attune-gain, or @acme/attune-gain')
    .addOption(
      new Option('--kind <kind>', 'what it contributes')
        .choices(Object.keys(scaffolds))
        .default('adapter'),
    )
    .option('--scope <scope>', 'first part of its ids (default: the package’s @scope, else the id)')
    .option('-o, --out <folder>', 'where to write (default: ./ and the name without its scope)')
    .option('--json', 'one JSON object on stdout')
    .addHelpText('after', '\nExample:\n  $ attune plugin new attune-gain --scope acme')
    .action(newAction);
  command
    .command('list')
    .description('show the plugins in reach, from their manifests; none of their code runs')
    .option('--stack <stack>', 'with those around a stack file and at its `plugins`')
    .option('--json', 'one JSON object on stdout')
    .addHelpText('after', '\nExample:\n  $ attune plugin list --json')
    .action(listAction);
  command
    .command('validate')
    .description('check a plugin’s manifest against its code and what npm would publish')
    .argument('[folder]', 'of the package', '.')
    .option('--json', 'one JSON object on stdout')
    .addHelpText('after', '\nExample:\n  $ attune plugin validate ./attune-gain')
    .action(validateAction);
  command
    .command('test')
    .description('hold a plugin’s kinds of adapters to every law, on a tiny model')
    .argument('[folder]', 'of the package', '.')
    .option('--only <name>', 'one of its adapters')
    .option('--set <key=value>', 'an option of the adapter; may be repeated', collect, [])
    .option('--net <name>', 'the net it acts on (default: unet)')
    .option('--acts-from-start', 'a fresh one is not the identity, on purpose')
    .option('--json', 'one JSON object on stdout')
    .addHelpText('after', '\nExample:\n  $ attune plugin test ./attune-gain --set scale=2')
    .action(testAction);
  return command;
}

const emit = (value: object): void => console.log(JSON.stringify(value));

interface NewOptions {
  readonly kind: Scaffold;
  readonly scope?: string;
  readonly out?: string;
  readonly json?: boolean;
}

function newAction(name: string, { kind, scope, out, json }: NewOptions): void {
  const names = namesOf(name, scope);
  const { loader } = openSession();
  if (loader.ids(scaffolds[kind]).includes(names.use))
    throw new AttuneError(
      'PLUGIN_DUPLICATE',
      `${kind} "${names.use}" is there already: choose another name, or a scope of your own (--scope).`,
    );
  const folder = out ?? basename(name);
  const files = scaffold(names, kind, folder);
  if (json) emit({ folder: resolve(folder), ...names, kind, files });
  else {
    for (const file of files) console.log(join(folder, file));
    say(`wrote ${folder}: cd there, npm install, npm test, npm run check`);
  }
}

async function listAction({ stack, json }: { stack?: string; json?: boolean }): Promise<void> {
  const argument = stack === undefined ? undefined : await readStack(stack);
  const plugins = listPlugins(
    argument ? { folder: argument.folder, paths: argument.stack.plugins } : {},
  );
  if (json) emit({ plugins });
  else
    for (const plugin of plugins) for (const line of inWords(plugin)) console.log(printable(line));
}

function inWords({ package: name, version, folder, problem, ...rest }: ListedPlugin): string[] {
  const { api, license, contributes, capabilities, origin } = rest;
  const about = [
    ...(api === null ? [] : [`api ${[api].flat().join(' to ')}`]),
    license ?? 'no licence',
    `capabilities: ${capabilities.join(', ') || 'none'}`,
  ];
  return [
    `${name}@${version ?? '?'}`,
    `  from        ${origin} (${folder})`,
    `  about       ${about.join(', ')}`,
    ...Object.entries(contributes).map(([kind, ids]) => `  ${kind.padEnd(11)} ${ids.join(', ')}`),
    ...(problem === null ? [] : [`  not used    ${problem}`]),
  ];
}

async function validateAction(given: string, { json }: { json?: boolean }): Promise<void> {
  const folder = packageFolder(given);
  const results = await unbroken(folder, () => validatePlugin(folder));
  const failed = results.filter(({ verdict }) => verdict === 'fail').map(({ check }) => check);
  if (json) emit({ folder, ok: failed.length === 0, checks: results });
  else
    for (const { check, verdict, detail } of results)
      console.log(
        printable(
          `${verdict === 'fail' ? 'FAIL' : verdict.padEnd(4)}  ${check.padEnd(12)}  ${detail}`,
        ),
      );
  if (failed.length)
    throw new AttuneError(
      'PLUGIN_INVALID',
      `${given} fails ${failed.length} of ${results.length} checks: ${failed.join(', ')}.`,
    );
}

interface TestOptions {
  readonly only?: string;
  readonly set: readonly string[];
  readonly net?: string;
  readonly actsFromStart?: boolean;
  readonly json?: boolean;
}

async function testAction(
  given: string,
  { only, set, net, actsFromStart, json }: TestOptions,
): Promise<void> {
  const folder = packageFolder(given);
  const plugin = readPlugin(folder);
  if (!plugin)
    throw new AttuneError('PLUGIN_MANIFEST', `${given}: package.json has no "attune" entry.`);
  for (const name of ['@attune/core', '@attune/engine']) {
    const copy = otherCopy(name, folder);
    if (copy !== undefined) throw new AttuneError('PLUGIN_COPIES', `${plugin.package}: ${copy}.`);
  }
  const own = set.length > 0 || net !== undefined || actsFromStart === true;
  const trials = await unbroken(folder, () =>
    examine(plugin, {
      offline: isOffline(),
      ...(only === undefined ? {} : { only }),
      ...(own
        ? {
            given: {
              options: parseYaml(z.record(z.string(), z.unknown()), settingsOf(set), '--set'),
              startsAsIdentity: actsFromStart !== true,
              ...(net === undefined ? {} : { net }),
            },
          }
        : {}),
      ...(json ? {} : { onStart: (id: string) => progress(`${id}: checking its laws`) }),
    }),
  );
  const without = Object.keys(plugin.manifest.contributes).filter((kind) => kind !== 'adapters');
  const broken = trials.flatMap(({ findings }) => findings.filter(({ ok }) => !ok));
  const ok = broken.length === 0;
  if (json)
    emit({ package: plugin.package, version: plugin.version, ok, adapters: trials, without });
  else {
    for (const trial of trials) for (const line of report(trial)) console.log(printable(line));
    if (without.length) say(`no laws are checked for ${without.join(', ')} (see plugin validate)`);
  }
  if (!ok)
    throw new AttuneError(
      'PLUGIN_LAWS',
      `${plugin.package} breaks ${broken.length} of ${trials.flatMap(({ findings }) => findings).length} laws.`,
    );
}

function report({ id, options, findings }: Trial): string[] {
  const setting = Object.keys(options).length ? ` ${JSON.stringify(options)}` : '';
  const kept = findings.filter(({ ok }) => ok).length;
  return [
    `${id}${setting}: ${kept} of ${findings.length} laws kept`,
    ...findings.flatMap(({ law, ok, detail }) => [
      `  ${ok ? 'ok  ' : 'FAIL'}  ${law}`,
      `          ${detail.split('\n')[0]}`,
    ]),
  ];
}

function packageFolder(given: string): string {
  const folder = resolve(given);
  if (!existsSync(join(folder, 'package.json')))
    throw new AttuneError('MISSING_FILE', `${given} has no package.json: name a plugin’s folder.`);
  return folder;
}

/** Runs what imports foreign code, which may end the process or wait for ever: that is its failure. */
async function unbroken<T>(folder: string, act: () => Promise<T>): Promise<T> {
  const ended = (): void => {
    process.exitCode = 1;
    say(`attune: the code of ${folder} ended the process, or waits for what never comes.`);
  };
  process.once('exit', ended);
  try {
    return await act();
  } finally {
    process.off('exit', ended);
  }
}
