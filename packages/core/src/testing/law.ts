/** What a law is. */

import type { Adapter } from '@attune/core';

import type { Bench } from './bench.ts';

export interface Verdict {
  readonly ok: boolean;
  /** The number that decided it, or what is wrong. */
  readonly detail: string;
}

/** The adapter under examination. */
export interface Subject {
  readonly bench: Bench;
  readonly startsAsIdentity: boolean;
  /** A fresh adapter of strength 1 unless told otherwise. */
  readonly make: (
    given?: Partial<Pick<Adapter, 'name' | 'strength' | 'train' | 'weights'>>,
  ) => Adapter;
}

export interface Law {
  readonly name: string;
  readonly check: (subject: Subject) => Promise<Verdict>;
}

export const holds = (detail: string): Verdict => ({ ok: true, detail });
export const fails = (detail: string): Verdict => ({ ok: false, detail });

/** `error` against what is allowed. */
export const within = (error: number, limit: number, what: string): Verdict => ({
  ok: error <= limit,
  detail: `${what} ${error.toExponential(1)} (at most ${limit})`,
});
