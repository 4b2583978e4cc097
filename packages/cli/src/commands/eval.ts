/** attune eval: stacks measured on a suite, with intervals. */

import { basename, resolve } from 'node:path';

import {
  type Contestant,
  ModelRunner,
  openSampler,
  openStack,
  parseYaml,
  Sampling,
} from '@attune/core';
import { AttuneError } from '@attune/engine';
import { Command } from 'commander';
import { z } from 'zod';

import { checkPlace, writeWhole } from '../output.ts';
import { openSession } from '../session.ts';
import { stackMedia } from '../stack-media.ts';
import { heedLock, type LockOptions, readStack, type StackArgument } from '../stack.ts';
import { withStrengths } from '../strengths.ts';
import { pace, progress, say, warn } from '../terminal.ts';
import {
  collect,
  type RuntimeChoice,
  runtimeOf,
  settingsOf,
  type StrengthChoice,
} from './arguments.ts';

interface Options extends LockOptions, RuntimeChoice, StrengthChoice {
  readonly stack: readonly string[];
  readonly set: readonly string[];
  readonly out?: string;
  readonly json?: boolean;
}

export const evalCommand = (): Command =>
  new Command('eval')
    .description('measure stacks on a suite')
    .argument('<suite>', 'the id of a suite: pocket, or scope/name of a plugin')
    .option('--stack <name=file>', 'a stack to measure; may be repeated', collect, [])
    .option('--set <key=value>', 'an option of the suite; may be repeated', collect, [])
    .option('-o, --out <file>', 'also write the report: .json or .md')
    .option('--json', 'the report as JSON on stdout')
    .addHelpText(
      'after',
      '\nExample:\n  $ attune eval pocket --stack plain=plain.yaml --stack aligned=aligned.yaml --set clips=35',
    )
    .action(evalAction);

/** `name=file`, or a file that lends its name. */
function named(text: string): { name: string; file: string } {
  const at = text.indexOf('=');
  return at > 0
    ? { name: text.slice(0, at), file: text.slice(at + 1) }
    : { name: basename(text).replace(/\.ya?ml$/, ''), file: text };
}

async function evalAction(suite: string, options: Options): Promise<void> {
  const { out } = options;
  if (out && !/\.(json|md)$/.test(out))
    throw new AttuneError('USAGE', `${out}: the report is JSON or Markdown; name it .json or .md.`);
  if (out) checkPlace(out, 'file');
  const { loader, runtime } = openSession(runtimeOf(options));
  const given = {
    ...parseYaml(z.record(z.string(), z.unknown()), settingsOf(options.set), '--set'),
    use: suite,
  };
  const { kind, options: settings } = await loader.configured('suites', given, '--set');
  const asked: (StackArgument & { readonly name: string })[] = [];
  for (const { name, file } of options.stack.map(named)) {
    if (asked.some((other) => other.name === name))
      throw new AttuneError(
        'BAD_ARGUMENT',
        `Two stacks are called ${name}; name them apart (--stack name=file).`,
      );
    const argument = await readStack(file);
    await heedLock(file, argument, loader, options);
    asked.push({ name, ...argument });
  }
  const stacks = withStrengths(
    asked.map(({ stack }) => stack),
    options.strength,
    (mask) => resolve(mask),
  );
  const contestants: Contestant[] = [];
  for (const [i, { name, folder }] of asked.entries()) {
    const stack = stacks[i];
    const open = async (stills: boolean) => {
      const how = { ...stackMedia, ...(stills ? { stills } : { onWarning: warn }) };
      return new ModelRunner(await openStack(stack, folder, loader, how), runtime);
    };
    const models = { stack: await open(false), stills: await open(true) };
    const sampling = Sampling.parse(stack.sampling ?? {});
    const sampler = await openSampler(sampling.sampler, loader);
    contestants.push({ name, models, sampling, sampler });
  }
  let each: ((step: number) => string) | undefined;
  const { text, data } = await kind.run(contestants, settings, {
    runtime,
    open: (stack, how) => openStack(stack, process.cwd(), loader, how),
    onProgress: (done, of) => {
      each ??= pace(of);
      progress(`${done}/${of}  ${each(done)}`);
    },
  });
  const json = `${JSON.stringify(data, null, 2)}\n`;
  process.stdout.write(options.json ? json : `${text}\n`);
  if (!out) return;
  writeWhole([{ path: out, text: out.endsWith('.json') ? json : `${text}\n`, force: true }]);
  say(`wrote ${out}`);
}
