/** attune report: how the adapters of a stack get into each other's way. */

import { interference, type Model } from '@attune/core';
import { AttuneError, nearest } from '@attune/engine';
import { formatReport } from '@attune/eval';
import { Command } from 'commander';

import { checkPlace, writeWhole } from '../output.ts';
import { openWhole } from '../probe/model.ts';
import { changes, interferencePage, overlapTable } from '../report/interference.ts';
import { type LockOptions, openStackSession } from '../stack.ts';
import { printable, say } from '../terminal.ts';
import { type RuntimeChoice, runtimeOf, type StrengthChoice } from './arguments.ts';

interface Options extends LockOptions, RuntimeChoice, StrengthChoice {
  readonly out?: string;
  readonly align?: string;
  readonly json?: boolean;
}

export const reportCommand = (): Command =>
  new Command('report')
    .description('measure how the adapters of a stack get into each other’s way')
    .argument('<stack>', 'a stack.yaml or the id of a bundled stack')
    .option('-o, --out <file.html>', 'also write a page with heat maps')
    .option(
      '--align <name>',
      'the adapter that aligns the others: with and without it (default: align, where there is one)',
    )
    .option('--json', 'the numbers as one JSON object on stdout')
    .addHelpText('after', '\nExample:\n  $ attune report pocket/aligned -o interference.html')
    .action(reportAction);

async function reportAction(name: string, options: Options): Promise<void> {
  const { out, json } = options;
  if (out && !/\.html?$/.test(out))
    throw new AttuneError('USAGE', `${out}: the page is HTML; name it .html.`);
  if (out) checkPlace(out, 'file');
  const session = await openStackSession(name, runtimeOf(options), options);
  const model = await openWhole(session, session.loader);
  if (model.adapters.length === 0)
    throw new AttuneError('NO_ADAPTERS', `${name} has no adapters: there is nothing to compare.`);
  const align = alignerOf(model, options.align);
  const found = await interference(model, session.runtime, align);
  await session.runtime.release();
  if (json) console.log(JSON.stringify({ stack: name, ...found }));
  else {
    console.log(printable(formatReport(changes(found))));
    if (found.adapters.length > 1) console.log(printable(`\n${overlapTable(found).join('\n')}`));
  }
  if (!out) return;
  writeWhole([{ path: out, text: interferencePage(name, found), force: true }]);
  say(`wrote ${out}`);
}

function alignerOf({ adapters }: Model, asked?: string): string | undefined {
  const names = adapters.map(({ name }) => name);
  if (asked === undefined) return names.length > 1 && names.includes('align') ? 'align' : undefined;
  if (!names.includes(asked))
    throw new AttuneError(
      'NO_ADAPTER',
      `--align ${asked}: the stack has ${names.join(', ')}; nearest: ${nearest(asked, names, 1).join()}.`,
    );
  if (names.length > 1) return asked;
  throw new AttuneError('USAGE', `--align ${asked}: the stack has no other adapter to align.`);
}
