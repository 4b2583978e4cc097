/** A model: named nets over one set of weights, and the adapters stacked on it. */

import type { Weights } from '@attune/engine';

import type { Adapter } from '../adapters/adapter.ts';
import type { Net } from './net.ts';

export interface Model {
  readonly nets: Readonly<Record<string, Net>>;
  /** Parameters of the nets by full name, and of the adapters under their names. */
  readonly weights: Weights;
  /** In order of application. */
  readonly adapters: readonly Adapter[];
  /** Which of the nets' own parameters train (patterns over names); none by default. */
  readonly train?: readonly string[];
}
