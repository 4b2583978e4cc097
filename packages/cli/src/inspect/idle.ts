/** Modules of a file that change nothing, found by reading their values. */

import type { SurveyedModule } from '@attune/core';
import { itemSize, type Weights } from '@attune/engine';

/** Values of so many bytes are read in about a second; those of larger files only when asked for. */
const SMALL = 2 ** 28;

function bytesOf(weights: Weights): number {
  let bytes = 0;
  for (const name of weights.names()) {
    const { dtype, shape } = weights.entry(name);
    bytes += shape.reduce((all, n) => all * n, itemSize[dtype]);
  }
  return bytes;
}

/** Whether a file's values are read to judge it. */
export const isRead = (weights: Weights, deep: boolean | undefined): boolean =>
  deep === true || bytesOf(weights) <= SMALL;

/** Their names, as the file spells them. */
export const idleNames = (modules: readonly SurveyedModule[]): string[] =>
  modules.filter((module) => module.isZero()).map(({ name }) => name);
