/** attune inspect: what a file is, whether it loads, and why not. */

import { existsSync } from 'node:fs';

import { pulled, skippedText } from '@attune/core';
import { AttuneError } from '@attune/engine';
import { Command } from 'commander';

import { inspect, type Verdict } from '../inspect/verdict.ts';
import { type Notes, readNotes } from '../media/index.ts';
import { openWhole } from '../probe/model.ts';
import { openSession } from '../session.ts';
import { heedLock, type LockOptions, readStack } from '../stack.ts';
import { firstOf, printable } from '../terminal.ts';

interface Options extends LockOptions {
  readonly base?: string;
  readonly allowPartial?: boolean;
  readonly deep?: boolean;
  readonly json?: boolean;
}

export const inspectCommand = (): Command =>
  new Command('inspect')
    .description('say what a file, a folder or a stack is and whether it can be loaded')
    .argument(
      '<file|folder|stack>',
      'a weight file, a folder, a stack.yaml, a bundled model or stack (pocket, pocket/aligned), hf:owner/name after a pull, or a result of attune',
    )
    .option('--base <stack|model>', 'the model to fit it against, with adapters before it')
    .option(
      '--allow-partial',
      'of an adapter, list what fits nowhere or is lacking instead of refusing it',
    )
    .option('--deep', 'read the values of big files, too: NaN, infinity, zero effect')
    .option('--json', 'the verdict as one JSON object on stdout')
    .addHelpText('after', '\nExample:\n  $ attune inspect sketch.safetensors --base ./sd15')
    .action(inspectAction);

async function inspectAction(
  file: string,
  { base, deep, json, allowPartial = false, ...lock }: Options,
): Promise<void> {
  const madeWith = await readNotes(pulled(file));
  if (madeWith) {
    if (json) console.log(JSON.stringify({ file, kind: 'result', madeWith }));
    else for (const line of describeResult(file, madeWith)) console.log(printable(line));
    return;
  }
  const argument = base === undefined ? undefined : await readStack(base);
  const { loader } = openSession(
    {},
    argument ? { folder: argument.folder, paths: argument.stack.plugins } : {},
  );
  const bundled = !existsSync(file) && loader.ids('stacks').includes(file);
  const heeded = base ?? (/\.ya?ml$/.test(file) || bundled ? file : undefined);
  // A stack that cannot be read gets its verdict below.
  if (heeded !== undefined && (lock.frozen || lock.verify))
    await heedLock(heeded, argument ?? (await readStack(heeded)), loader, lock);
  const found = await inspect(pulled(file), {
    loader,
    allowPartial,
    ...(deep ? { deep } : {}),
    ...(argument ? { base: await openWhole(argument, loader, { allowPartial }) } : {}),
  });
  const verdict = { ...found, file };
  if (json) console.log(JSON.stringify(verdict));
  else for (const line of describe(verdict, base)) console.log(printable(line));
  if (verdict.verdict === 'refused')
    throw new AttuneError(
      'REFUSED',
      printable(`${file} is refused: ${plain(verdict.reason)}. Way out: ${verdict.fix ?? 'none'}.`),
    );
}

function describeResult(file: string, madeWith: Notes): string[] {
  const entries = Object.entries(madeWith);
  const wide = Math.max(...entries.map(([key]) => key.length));
  return [`${file}: made by attune`, ...entries.map(([k, v]) => `  ${k.padEnd(wide)}  ${v}`)];
}

/** Without the full stop that messages end with. */
const plain = (reason: string | null): string => (reason ?? 'unknown').replace(/\.$/, '');

function describe(verdict: Verdict, base: string | undefined): string[] {
  const { file, kind, dialect, algorithm, modules, ranks, alphas } = verdict;
  const about = [algorithm, dialect && `${dialect} layout`, verdict.base && `for ${verdict.base}`];
  const { matched, unmatched, misshaped, zeroEffect } = modules;
  const lines = [`${file}: ${verdict.verdict}`];
  lines.push(`  kind     ${[kind ?? 'unknown', ...about.filter(Boolean)].join(', ')}`);
  if (matched + unmatched + misshaped > 0)
    lines.push(
      `  modules  ${matched} matched, ${unmatched} unmatched, ${misshaped} misshaped, ${zeroEffect ?? 'unknown (--deep reads the values)'} without effect${base === undefined ? ' (no --base given)' : ` (against ${base})`}`,
    );
  if (verdict.idle.length > 0) lines.push(`  idle     ${firstOf(verdict.idle)}`);
  const scales = new Map<string, number>();
  for (const [name, rank] of Object.entries(ranks)) {
    const text = `rank ${rank} alpha ${alphas[name]}`;
    scales.set(text, (scales.get(text) ?? 0) + 1);
  }
  for (const [text, count] of scales) lines.push(`  ${String(count).padStart(7)}  × ${text}`);
  const skipped = skippedText(verdict.skipped);
  if (skipped !== undefined) lines.push(`  partial  ${skipped}`);
  if (verdict.chosen !== null) lines.push(`  taken    ${verdict.chosen}`);
  if (verdict.verdict === 'loadable' && verdict.reason) lines.push(`  note     ${verdict.reason}`);
  return lines;
}
