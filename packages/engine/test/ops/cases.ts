/** The case table: one row or more per op. An op without a row does not compile. */

import type { ops } from '../../src/ops/index.ts';
import type { Rows } from './case.ts';
import { convCases } from './conv.cases.ts';
import { elementwiseCases } from './elementwise.cases.ts';
import { matmulCases } from './matmul.cases.ts';
import { normalizeCases } from './normalize.cases.ts';
import { structuralCases } from './structural.cases.ts';

export const cases: Rows<typeof ops> = {
  ...structuralCases,
  ...elementwiseCases,
  ...matmulCases,
  ...convCases,
  ...normalizeCases,
};
