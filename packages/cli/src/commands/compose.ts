/** attune compose: adapters stacked from the shell, as a stack file. */

import { dirname, resolve } from 'node:path';

import { lockFileOf, lockText, stackText } from '@attune/core';
import { AttuneError } from '@attune/engine';
import { Command } from 'commander';

import { Dialogue } from '../compose/dialogue.ts';
import { entryOf, type Wanted, wantedOf } from '../compose/entries.ts';
import { movedTo, placed } from '../compose/moved.ts';
import { askStack } from '../compose/questions.ts';
import { checkTarget } from '../compose/target.ts';
import { checkPlace, writeWhole } from '../output.ts';
import { report } from '../report/stack.ts';
import { collectRoute, type GivenRoutes, routeHelp, withRoutes } from '../routes.ts';
import { type LockOptions, openStackSession } from '../stack.ts';
import { withStrengths } from '../strengths.ts';
import { trusted } from '../trust.ts';
import { positive, type RuntimeChoice, runtimeOf, type StrengthChoice } from './arguments.ts';

interface Options extends LockOptions, RuntimeChoice, StrengthChoice {
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
      '[base]',
      'a model folder, a bundled model, hf:owner/name, or a stack.yaml to stack on; at a terminal, what is not given is asked for',
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
  base: string | undefined,
  specs: readonly string[],
  options: Options,
): Promise<void> {
  const { out, check, lock, force = false, allowPartial = false } = options;
  if (base !== undefined && (specs.length > 0 || out || check || lock))
    return composed(base, specs.map(wantedOf), options);
  if (!process.stdin.isTTY)
    throw usage(
      'Name the model, its adapters and where the stack goes: attune compose BASE [adapters…] --out stack.yaml (or --check, or --lock). Without them it asks, at a terminal.',
    );
  if (check || lock) throw usage(`--${check ? 'check' : 'lock'} of which stack? Name it.`);
  const asked = await Dialogue.with((dialogue) =>
    askStack(dialogue, { base, out, force, partial: allowPartial }),
  );
  await composed(asked.base, asked.adapters, { ...options, out: asked.out });
}

async function composed(
  base: string,
  adapters: readonly Wanted[],
  options: Options,
): Promise<void> {
  const { out, lock: locks = false, frames, json, allowPartial = false } = options;
  checkUsage(adapters, options);
  // Strengths may be of adapters that are added here.
  const session = await openStackSession(base, runtimeOf(options), { ...options, strength: [] });
  const { file, loader } = session;
  if (locks && file === undefined)
    throw new AttuneError('USAGE', `--lock: ${base} is a model, and only a stack file has a lock.`);
  const written = locks ? file : out;
  if (written !== undefined) checkPlace(lockFileOf(written), 'file');
  const target = resolve(dirname(out ?? file ?? base));
  const routed = withRoutes(movedTo(target, session), options.route, (image) =>
    placed(resolve(image), target, image),
  );
  for (const wanted of adapters)
    routed.adapters.push(
      await entryOf(wanted, { target, loader, taken: routed.adapters, partial: allowPartial }),
    );
  const [whole] = withStrengths([routed], options.strength, (mask) =>
    placed(resolve(mask), target, mask),
  );
  if (allowPartial)
    for (const entry of whole.adapters) if (entry.from !== undefined) entry.allow_partial = true;
  const asItIs =
    adapters.length + options.strength.length + Object.keys(options.route).length === 0;
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
  if (written !== undefined) {
    const lock = { path: lockFileOf(written), text: lockText(found.lock), force: true };
    const stack = { path: written, text: stackText(whole), force: options.force ?? false };
    writeWhole(locks ? [lock] : [stack, lock]);
  }
  report(found, whole.adapters, { written: written ?? null, lockedAs, json: json ?? false });
}

const usage = (what: string): AttuneError => new AttuneError('USAGE', what);

function checkUsage(
  adapters: readonly Wanted[],
  { out, check, lock, force, route, strength, allowPartial }: Options,
): void {
  if (!out && !check && !lock)
    throw usage('Say where the stack goes (--out stack.yaml), --check it, or --lock it.');
  const more = adapters.length + strength.length + Object.keys(route).length > 0;
  if (lock && (out || more))
    throw usage(
      '--lock locks a stack file as it is; adapters, strengths and routes go into a new one (--out).',
    );
  if (lock && allowPartial)
    throw usage('--lock locks a stack file as it is: say allow_partial: true in its entries.');
  if (out) checkTarget(out, force ?? false);
}
