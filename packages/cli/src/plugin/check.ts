/** What a check of a plugin's package is, and what the checks look at. */

import type { FoundPlugin, Plugin } from '@attune/core';

import type { CodeSurvey } from './code.ts';

export interface CheckResult {
  readonly check: string;
  /** `note`: not wrong, worth knowing. */
  readonly verdict: 'ok' | 'note' | 'fail';
  readonly detail: string;
}

/** A package whose manifest is right. */
export interface Candidate {
  readonly plugin: FoundPlugin;
  readonly folder: string;
  readonly json: PackageFile;
}

/** The keys of package.json that checks read; none is taken for granted. */
export interface PackageFile {
  readonly name?: unknown;
  readonly version?: unknown;
  readonly license?: unknown;
  readonly private?: unknown;
  readonly keywords?: unknown;
  readonly description?: unknown;
  readonly exports?: unknown;
  readonly main?: unknown;
  readonly dependencies?: Readonly<Record<string, string>>;
  readonly peerDependencies?: Readonly<Record<string, string>>;
  readonly optionalDependencies?: Readonly<Record<string, string>>;
  readonly peerDependenciesMeta?: Readonly<Record<string, { readonly optional?: boolean }>>;
}

/** A package whose code has been read, and loaded where it loads. */
export interface Loaded extends Candidate {
  readonly code: CodeSurvey;
  readonly exported: Plugin | undefined;
}

/** `fail` with what is wrong, else `note` with what is worth knowing, else `ok` with `fine`. */
export function verdictOf(
  check: string,
  fine: string,
  wrong: readonly string[],
  notes: readonly string[] = [],
): CheckResult {
  if (wrong.length) return { check, verdict: 'fail', detail: wrong.join('; ') };
  if (notes.length) return { check, verdict: 'note', detail: notes.join('; ') };
  return { check, verdict: 'ok', detail: fine };
}

export const reasonOf = (error: unknown): string =>
  error instanceof Error ? error.message : String(error);

/** `attune.contributes` of a manifest as `kind` and names. */
export const declaredIds = ({
  manifest,
}: FoundPlugin): readonly (readonly [string, readonly string[]])[] =>
  Object.entries(manifest.contributes);
