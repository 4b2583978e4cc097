/** Every op by name: the list that the case table of the tests must cover. */

import * as conv from './conv.ts';
import * as elementwise from './elementwise.ts';
import * as matmul from './matmul.ts';
import * as normalize from './normalize.ts';
import * as structural from './structural.ts';

const {
  onnxType: _types,
  values: _values,
  pick: _pick,
  reduction: _reduction,
  ...structuralOps
} = structural;

export const ops = { ...structuralOps, ...elementwise, ...matmul, ...conv, ...normalize };
