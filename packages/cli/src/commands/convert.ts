/** attune convert: an adapter in another tool's layout, proved equal before it is kept. */

import { existsSync, mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

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
import { badOutput } from '../media/errors.ts';
import { checkPlace, staged } from '../output.ts';
import { type Equality, equality, OF_EFFECT, OF_OUTPUT } from '../probe/equality.ts';
import { openWhole } from '../probe/model.ts';
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

export const convertCommand = (): Command =>
  new Command('convert')
    .description('write an adapter in the layout of another tool, and check that it is the same')
    .argument('<file>', 'an adapter: a file or a folder')
    .requiredOption('--base <stack|model>', 'the model it is for, with adapters before it')
    .requiredOption(
      '--to <dialect>',
      'LoRA: kohya, diffusers, peft, of motion modules also animatediff; motion modules: animatediff, diffusers; ControlNet: ldm, diffusers',
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
  { base, to, out, rank, force = false, json, ...lock }: Options,
): Promise<void> {
  if (resolve(from) === resolve(out))
    throw new AttuneError('USAGE', `${out} is the file itself: choose another name.`);
  checkTarget(out, force);
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
  const { error, effect, share } = await staged(
    out,
    async (temp) => {
      save(temp, written);
      const again = readAdapterFile(temp);
      const found = await equality(
        model,
        (strength) => stacked(model, kind, file, strength),
        (strength) => stacked(model, kind, again, strength),
        runtime,
      );
      refuseUnequal(from, found, written.error !== undefined);
      return found;
    },
    { replace: force },
  );
  const weightError = written.error ?? 0;
  if (json)
    console.log(
      JSON.stringify({ path: out, kind: id, dialect: to, error, effect, share, weightError }),
    );
  else {
    if (written.error !== undefined)
      say(`rank ${rank}: the changes of the weights differ by ${percent(weightError)}`);
    say(
      `wrote ${out}: the model's output differs by ${error.toExponential(1)} from that with ${from}, which changes it by ${effect.toExponential(1)}; ${share.toExponential(1)} of that change`,
    );
  }
}

/** Throws NO_EFFECT and, unless it was written as something near, NOT_EQUAL. */
function refuseUnequal(from: string, { error, share, acts }: Equality, near: boolean): void {
  if (!acts)
    throw new AttuneError(
      'NO_EFFECT',
      `${from} has no effect on the model's output, even a million times as strong: nothing could show that what is written is the same; nothing is kept.`,
    );
  if (near || (error <= OF_OUTPUT && share <= OF_EFFECT)) return;
  throw new AttuneError(
    'NOT_EQUAL',
    `What was written differs from ${from} by ${error.toExponential(1)} of the model's output and ${share.toExponential(1)} of what it changes (allowed: ${OF_OUTPUT} and ${OF_EFFECT}); nothing is kept.`,
    { error, share },
  );
}

const percent = (share: number): string => `${(100 * share).toFixed(2)} %`;

/** Refuses a place that cannot become the adapter, before anything is read. */
function checkTarget(out: string, force: boolean): void {
  if (existsSync(out) && !force)
    throw new AttuneError('EXISTS', `${out} exists: choose another name or pass --force.`);
  const whole = existsSync(out) && statSync(out).isDirectory();
  checkPlace(out, whole ? 'folder' : 'file');
  // What is replaced is gone: a folder of anything else than weights and configs is not.
  if (whole && readdirSync(out).some((name) => !/\.(safetensors|json)$/.test(name)))
    throw badOutput(out, 'it is no adapter, so --force does not replace it', 'use another name');
}

function save(path: string, { tensors, metadata = {}, folder }: Written): void {
  if (folder) mkdirSync(path);
  writeSafetensors(folder ? join(path, folder.file) : path, tensors, metadata);
  for (const [name, config] of Object.entries(folder?.configs ?? {}))
    writeFileSync(join(path, name), `${JSON.stringify(config, null, 2)}\n`);
}

function stacked(model: Model, kind: AdapterKind, file: AdapterFile, strength: number): Model {
  const names = new Set(model.adapters.map(({ name }) => name));
  const name = names.has('converted') ? `converted${names.size}` : 'converted';
  const adapter = kind.create({ name, file, model, strength }, kind.options.parse({}));
  return materialize(compose(model, adapter), { dims: nominalDims });
}
