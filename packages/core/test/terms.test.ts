import { expect, test } from 'vitest';

import { termsOf } from '../src/stack/terms.ts';

const terms = (parts: Readonly<Record<string, string | null>>) =>
  termsOf(new Map(Object.entries(parts)));

test.each([
  [{ a: 'MIT', b: 'CC0-1.0' }, 'MIT', []],
  [{ a: 'Apache-2.0', b: 'creativeml-openrail-m' }, 'creativeml-openrail-m', []],
  [{ a: 'creativeml-openrail-m', b: 'CC-BY-NC-SA-4.0', c: 'mit' }, 'CC-BY-NC-SA-4.0', []],
  [{ a: 'GPL-3.0-only', b: 'BSD-3-Clause' }, 'GPL-3.0-only', []],
  [{ a: 'cc-by-sa-4.0', b: 'cc-by-4.0' }, 'cc-by-sa-4.0', []],
  [{ a: 'openrail++', b: null, c: 'other' }, 'openrail++', ['b', 'c']],
  [{ a: null }, null, ['a']],
])('%j: %s is the strictest', (parts, strictest, unknown) => {
  expect(terms(parts)).toMatchObject({ strictest, unknown });
});
