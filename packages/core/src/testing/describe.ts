/** The laws as tests, under any runner that has `describe` and `test`. */

import { AttuneError } from '@attune/engine';

import { type Declared, judge, laws, type MakeAdapter, subjectOf } from './check.ts';

/** Vitest's, Jest's or node:test's: core depends on none of them. */
export interface TestRunner {
  /** Groups the tests that `body` makes. */
  readonly describe: (name: string, body: () => void) => unknown;
  /** One test: it fails where `body` rejects. `timeout` is in milliseconds. */
  readonly test: (name: string, body: () => Promise<void>, timeout?: number) => unknown;
}

/** One test per law of an adapter. `make` returns a fresh adapter each time. */
export function describeAdapter(
  name: string,
  make: MakeAdapter,
  { describe, test, ...declared }: TestRunner & Declared,
): void {
  describe(`${name} keeps the laws of an adapter`, () => {
    for (const law of laws)
      test(
        law.name,
        async () => {
          const { ok, detail } = await judge(law, subjectOf(make, declared));
          if (!ok)
            throw new AttuneError('LAW', `${name} breaks the law "${law.name}": ${detail}.`, {
              law: law.name,
            });
        },
        30_000,
      );
  });
}
