/** attune convert: an adapter in another tool's layout, proved equal before it is kept. */

import { existsSync, mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';

import {
  type AdapterFile,
  type AdapterKind,
  compose,
  materialize,
  type Model,
  nominalDims,
  pulled,
  readAdapterFile,
  type Written,
} from '@attune/core';
import { AttuneError, writeSafetensors } from '@attune/engine';
import { Command } from 'commander';

import { inspect } from '../inspect/verdict.ts';
import { openWhole } from '../probe/model.ts';
import { comparison, outputsOf } from '../probe/outputs.ts';
import { type LockOptions, openStackSession } from '../stack.ts';
import { printable, say } from '../terminal.ts';
import { positive } from './arguments.ts';

interface Options extends LockOptions {
  readonly base: string;
  readonly to: string;
  readonly out: string;
  readonly rank?: number;
  readonly force?: boolean;
  readonly json?: boolean;
}

/** Outputs of the original and of what was written may differ by this, relative to the largest entry. */
const TOLERANCE = 1e-5;

export const convertCommand = (): Command =>
  new Command('convert')
    .description('write an adapter in the layout of another tool, and check that it is the same')
    .argument('<file>', 'an adapter: a file or a folder')
    .requiredOption('--base <stack|model>', 'the model it is for, with adapters before it')
    .requiredOption(
      '--to <dialect>',
      'LoRA: kohya, diffusers, peft; motion modules: animatediff, diffusers; ControlNet: ldm, diffusers',
    )
    .requiredOption('-o, --out <path>', 'where to write')
    .option(
      '--rank <n>',
      'write everything as plain LoRA of this rank (LoHa, LoKr, DoRA by singular values)',
      positive,
    )
    .option('--force', 'replace what is there')
    .option('--json', 'one JSON object on stdout')
    .addHelpText(
      'after',
      '\nExample:\n  $ attune convert look.safetensors --base ./sd15 --to kohya -o look.kohya.safetensors',
    )
    .action(convertAction);

async function convertAction(
  from: string,
  { base, to, out, rank, force, json, ...lock }: Options,
): Promise<void> {
  if (resolve(from) === resolve(out))
    throw new AttuneError('USAGE', `${out} is the file itself: choose another name.`);
  if (!force && existsSync(out))
    throw new AttuneError('EXISTS', `${out} exists: choose another name or pass --force.`);
  const session = await openStackSession(base, {}, lock);
  const { loader, runtime } = session;
  const model = await openWhole(session, loader);
  const path = pulled(from);
  const verdict = await inspect(path, { loader, base: model });
  if (verdict.verdict === 'refused')
    throw new AttuneError(
      'REFUSED',
      printable(`${from} is refused: ${verdict.reason}. Way out: ${verdict.fix}.`),
    );
  const id = verdict.kind ?? '';
  const kind = loader.ids('adapters').includes(id) ? await loader.get('adapters', id) : undefined;
  if (!kind?.write || !kind.dialects?.includes(to))
    throw new AttuneError(
      'NO_DIALECT',
      `${from} is a ${verdict.kind}, which cannot be written as ${to}; known: ${kind?.dialects?.join(', ') || 'no dialect'}.`,
    );
  const file = readAdapterFile(path);
  const written = await kind.write({
    file,
    model,
    dialect: to,
    runtime,
    ...(rank === undefined ? {} : { rank }),
  });
  const staging = stage(out, written);
  try {
    const [plain, before, after] = await Promise.all([
      outputsOf(model, runtime),
      outputsOf(stacked(model, kind, file), runtime),
      outputsOf(stacked(model, kind, readAdapterFile(staging)), runtime),
    ]);
    const [error, effect] = [comparison(after, before), comparison(plain, before)];
    if (written.error === undefined && !(error <= TOLERANCE))
      throw new AttuneError(
        'NOT_EQUAL',
        `What was written differs from ${from} by ${error.toExponential(1)} of the model's output; nothing is kept.`,
      );
    rmSync(out, { recursive: true, force: true });
    renameSync(staging, out);
    const weightError = written.error ?? 0;
    if (json)
      console.log(JSON.stringify({ path: out, kind: id, dialect: to, error, effect, weightError }));
    else {
      if (written.error !== undefined)
        say(`rank ${rank}: the changes of the weights differ by ${percent(weightError)}`);
      say(
        `wrote ${out}: the model's output differs by ${error.toExponential(1)} from that with ${from}, which changes it by ${effect.toExponential(1)}`,
      );
    }
  } finally {
    rmSync(staging, { recursive: true, force: true });
  }
}

const percent = (share: number): string => `${(100 * share).toFixed(2)} %`;

/** Writes beside the target, under a name that says what it is. */
function stage(out: string, { tensors, metadata = {}, folder }: Written): string {
  const extension = folder ? '' : '.safetensors';
  const staging = join(dirname(resolve(out)), `.${process.pid}.converted${extension}`);
  rmSync(staging, { recursive: true, force: true });
  mkdirSync(folder ? staging : dirname(staging), { recursive: true });
  try {
    writeSafetensors(folder ? join(staging, folder.file) : staging, tensors, metadata);
    for (const [name, config] of Object.entries(folder?.configs ?? {}))
      writeFileSync(join(staging, name), `${JSON.stringify(config, null, 2)}\n`);
  } catch (error) {
    rmSync(staging, { recursive: true, force: true });
    throw error;
  }
  return staging;
}

function stacked(model: Model, kind: AdapterKind, file: AdapterFile): Model {
  const names = new Set(model.adapters.map(({ name }) => name));
  const name = names.has('converted') ? `converted${names.size}` : 'converted';
  const adapter = kind.create({ name, file, model }, kind.options.parse({}));
  return materialize(compose(model, adapter), { dims: nominalDims });
}
