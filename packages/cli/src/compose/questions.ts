/** What `attune compose` asks for at a terminal; every answer is checked before the next question. */

import { readdirSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';

import {
  checkStack,
  findingText,
  pulled,
  readStackParts,
  refuseConflicts,
  type StackEntry,
} from '@attune/core';
import { AttuneError } from '@attune/engine';

import { inspect, type Verdict } from '../inspect/verdict.ts';
import { stackMedia } from '../stack-media.ts';
import { openStackSession, type StackSession } from '../stack.ts';
import type { Dialogue } from './dialogue.ts';
import { entryOf, strengthOf, type Wanted } from './entries.ts';
import { movedTo } from './moved.ts';
import { checkTarget } from './target.ts';

export interface Known {
  readonly base: string | undefined;
  readonly out: string | undefined;
  /** A stack file that exists may be replaced. */
  readonly force: boolean;
  readonly partial: boolean;
}

export interface Asked {
  readonly base: string;
  readonly adapters: readonly Wanted[];
  readonly out: string;
}

/** Files and folders of a folder that are looked at. */
const MOST = 60;

/** Asks for the model, adapters found in folders, their strengths and order, and the stack file. */
export async function askStack(dialogue: Dialogue, known: Known): Promise<Asked> {
  const { base, session } = known.base
    ? await modelOf(known.base)
    : await dialogue.ask(
        'Model: a folder, a file, a stack.yaml or a bundled one [pocket]:',
        (text) => modelOf(text || 'pocket'),
      );
  const fits = fitting(session, known);
  let chosen: readonly Wanted[] = [];
  for (;;) {
    const before = chosen;
    const found = await dialogue.ask(
      `${before.length ? 'Other adapters' : 'Adapters'}: a file, or a folder to choose from (Enter: no more):`,
      (text) => (text === '' ? undefined : verdictsIn(text, session)),
    );
    if (!found) break;
    found.forEach((one, i) => dialogue.say(verdictLine(one, i)));
    chosen = await dialogue.ask(
      'Which, in the order they act (numbers; Enter: none):',
      async (text) => fits([...before, ...numbersIn(text, found)]),
    );
    for (let i = before.length; i < chosen.length; i++)
      chosen = await dialogue.ask(`Strength of ${basename(chosen[i].path)} [1]:`, (text) =>
        fits(
          chosen.map((one, k) =>
            k === i && text !== '' ? { ...one, strength: strengthOf(text) } : one,
          ),
        ),
      );
  }
  if (chosen.length > 1) {
    chosen.forEach(({ path }, i) => dialogue.say(`  ${i + 1}  ${basename(path)}`));
    chosen = await dialogue.ask('Another order (numbers; Enter: this one):', (text) =>
      text === '' ? chosen : fits(reordered(text, chosen)),
    );
  }
  const last = await fits.findings(chosen);
  for (const finding of last) dialogue.say(`  warning: ${findingText(finding)}`);
  const out = await dialogue.ask(`Stack file [${known.out ?? 'stack.yaml'}]:`, (text) => {
    const target = text || (known.out ?? 'stack.yaml');
    checkTarget(target, known.force);
    return target;
  });
  return { base, adapters: chosen, out };
}

/** A model that opens. */
async function modelOf(base: string): Promise<{ base: string; session: StackSession }> {
  const session = await openStackSession(base);
  await readStackParts(session.stack, session.folder, session.loader, stackMedia);
  return { base, session };
}

/** Lets adapters through that fit the model together. */
function fitting(session: StackSession, { partial }: Known) {
  const target = process.cwd();
  const { loader } = session;
  const findings = async (adapters: readonly Wanted[]) => {
    const stack = movedTo(target, session);
    const taken: StackEntry[] = [...stack.adapters];
    for (const wanted of adapters)
      taken.push(await entryOf(wanted, { target, loader, taken, partial }));
    const how = { ...stackMedia, allowPartial: partial };
    const parts = await readStackParts({ ...stack, adapters: taken }, target, loader, how);
    const found = checkStack(parts);
    refuseConflicts(found);
    return found.filter(({ level }) => level === 'warning');
  };
  const check = async (adapters: readonly Wanted[]): Promise<readonly Wanted[]> => {
    await findings(adapters);
    return adapters;
  };
  return Object.assign(check, { findings });
}

/** What a path holds: itself where it is an adapter or a file, else everything in the folder. */
async function verdictsIn(text: string, { loader }: StackSession): Promise<Verdict[]> {
  const path = pulled(text);
  const stat = statSync(path, { throwIfNoEntry: false });
  if (!stat) throw new AttuneError('MISSING_FILE', `${text} does not exist.`);
  const isAdapter = ({ kind }: Verdict) => kind !== null && loader.ids('adapters').includes(kind);
  const whole = { ...(await inspect(path, { loader })), file: text };
  const names = stat.isDirectory() && !isAdapter(whole) ? readdirSync(path) : [];
  const seen = names.filter((name) => !name.startsWith('.')).toSorted();
  const found: Verdict[] = seen.length === 0 ? [whole] : [];
  for (const name of seen.slice(0, MOST)) found.push(await inspect(join(text, name), { loader }));
  const adapters = found.filter(isAdapter);
  if (adapters.length > 0) return adapters;
  const [first] = found;
  throw new AttuneError(
    'NO_ADAPTER',
    `${text} holds no adapter${seen.length > MOST ? ` among its first ${MOST} files` : ''}: ${basename(first.file)} is ${first.kind ?? 'of no kind'}${first.reason ? ` (${first.reason})` : ''}.`,
  );
}

function verdictLine({ file, verdict, kind, algorithm, base, reason }: Verdict, i: number): string {
  const about = [kind, algorithm, base && `for ${base}`].filter(Boolean).join(', ');
  const why = verdict === 'refused' ? `  refused: ${reason ?? 'unknown'}` : '';
  return `  ${i + 1}  ${basename(file)}  ${about}${why}`;
}

/** `2 1` of what was found. Throws BAD_ARGUMENT for what is no number of it, or is refused. */
const numbersIn = (text: string, found: readonly Verdict[]): Wanted[] =>
  picked(text, found.length).map((i) => {
    const { file, verdict, reason, fix } = found[i];
    if (verdict === 'loadable') return { path: file };
    throw new AttuneError('REFUSED', `${basename(file)} is refused: ${reason}. Way out: ${fix}.`);
  });

function reordered(text: string, chosen: readonly Wanted[]): Wanted[] {
  const order = picked(text, chosen.length);
  if (order.length === chosen.length) return order.map((i) => chosen[i]);
  throw new AttuneError('BAD_ARGUMENT', `Name each of the ${chosen.length} once, as "2 1".`);
}

/** Indices that a line of numbers from 1 names, each once. */
function picked(text: string, count: number): number[] {
  const words = text.split(/[\s,]+/).filter(Boolean);
  const odd = words.find(
    (word, i) => !/^\d+$/.test(word) || +word < 1 || +word > count || words.indexOf(word) < i,
  );
  if (odd !== undefined)
    throw new AttuneError('BAD_ARGUMENT', `"${odd}": give numbers from 1 to ${count}, each once.`);
  return words.map((word) => Number(word) - 1);
}
