/** What a stack is made of, whether it fits together, and that each adapter acts: for commands that show or lock it. */

import {
  checkStack,
  currentProof,
  findingText,
  fingerprint,
  lockDiff,
  lockOf,
  prove,
  readLock,
  readStackParts,
  refuseConflicts,
  type StackLock,
  type StackPart,
  type StackParts,
  surveyAdapter,
} from '@attune/core';
import { AttuneError, HashBook } from '@attune/engine';

import { idleNames, isRead } from './inspect/idle.ts';
import { completed } from './probe/model.ts';
import type { CommandSession } from './session.ts';
import { stackMedia } from './stack-media.ts';
import { type StackArgument, stackWarnings } from './stack.ts';
import { firstOf, warn } from './terminal.ts';

export interface TrustOptions {
  /** Frames at once that are asked for. */
  readonly frames?: number;
  /** Hash every file anew. */
  readonly verify: boolean;
  /** Prove that each adapter acts, unless the lock remembers it of this very stack. */
  readonly proof: boolean;
  /** The stack file whose lock is compared with the stack. */
  readonly lockedAs?: string;
  /** A broken lock is to be written anew. */
  readonly anew: boolean;
}

export interface Trusted {
  readonly parts: StackParts;
  /** With the proof, where one was asked for. */
  readonly lock: StackLock;
  /** Against the lock that is there: undefined where there is none, empty where it is up to date. */
  readonly drift: readonly string[] | undefined;
}

/** Warns of what its check warns of; throws STACK_CONFLICT before any weight is read, NO_EFFECT after the proof. */
export async function trusted(
  argument: StackArgument,
  { loader, runtime }: CommandSession,
  { frames, verify, proof, lockedAs, anew }: TrustOptions,
): Promise<Trusted> {
  for (const warning of stackWarnings(argument)) warn(warning);
  const { stack, folder } = argument;
  const parts = await readStackParts(stack, folder, loader, stackMedia);
  const findings = checkStack(parts, frames === undefined ? {} : { frames });
  for (const finding of findings) if (finding.level === 'warning') warn(findingText(finding));
  refuseConflicts(findings);
  for (const part of parts.parts) warnOfIdle(part);
  const model = completed(parts.model);
  const lock = lockOf(stack, parts, loader, new HashBook({ verify }));
  const before = lockedAs === undefined ? undefined : remembered(lockedAs, anew);
  const drift = before && lockDiff(before, lock);
  if (!proof) return { parts, lock, drift };
  const known = currentProof(before, lock);
  const made = known ?? { of: fingerprint(lock), adapters: await prove(model, runtime) };
  return { parts, lock: { ...lock, proof: made }, drift };
}

/** An adapter whose file is not zero throughout may still have modules that are; all of it is the proof's business. */
function warnOfIdle({ adapter: { name }, entry, kind, file }: StackPart): void {
  if (!file || entry.train !== undefined || !isRead(file.weights, false)) return;
  const { modules } = surveyAdapter(kind, file);
  const idle = idleNames(modules);
  if (idle.length > 0)
    warn(
      `${idle.length} of ${modules.length} modules of ${name} change nothing, all zero: ${firstOf(idle)}; the rest acts.`,
    );
}

function remembered(stackFile: string, anew: boolean): StackLock | undefined {
  try {
    return readLock(stackFile);
  } catch (error) {
    if (anew && AttuneError.is(error)) return undefined;
    throw error;
  }
}
