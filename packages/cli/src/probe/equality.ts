/** Whether two forms of an adapter do the same, judged by what the adapter changes. */

import { type Model, nominalDims, traceNet } from '@attune/core';
import type { Runtime } from '@attune/engine';

import { comparison, outputOf, probedNets } from './outputs.ts';

/** Outputs with both forms may differ by this, relative to the largest entry. */
export const OF_OUTPUT = 1e-5;

/** They may differ by this, relative to the largest change that the adapter makes. */
export const OF_EFFECT = 1e-3;

/** A change of the output, relative to its largest entry, beside which rounding is far below `OF_EFFECT`. */
const MEASURABLE = 1e-2;

/** A weak adapter is compared at the first of these strengths at which its change can be measured. */
const strengths = [1, 1e2, 1e4, 1e6] as const;

export interface Equality {
  /** How much outputs differ, relative to the largest entry. */
  readonly error: number;
  /** What the adapter changes, relative to the largest entry. */
  readonly effect: number;
  /** How much outputs differ, relative to what the adapter changes; of all nets the most. */
  readonly share: number;
  /** False where even the greatest strength changes nothing that can be measured. */
  readonly acts: boolean;
}

/** The plain model with what is compared on it, so many times as strong. */
type Made = (strength: number) => Model | Promise<Model>;

/** Runs each net on fixed inputs without the adapter, or adapters, with it, and with its other form. */
export async function equality(
  plain: Model,
  before: Made,
  after: Made,
  runtime: Runtime,
): Promise<Equality> {
  let [error, effect, share, acts] = [0, 0, 0, false];
  for (const net of probedNets(plain)) {
    const without = await outputOf(plain, net, runtime);
    const touched = acted(plain, await before(1), net);
    for (const strength of strengths) {
      const [want, got] = [
        await outputOf(await before(strength), net, runtime),
        await outputOf(await after(strength), net, runtime),
      ];
      const [differs, changes] = [comparison(got, want), comparison(without, want)];
      if (strength === 1) [error, effect] = [Math.max(error, differs), Math.max(effect, changes)];
      // Not a number is no reason to go on.
      const measured = !(changes < MEASURABLE);
      acts ||= measured;
      if (!measured && touched && strength !== strengths.at(-1)) continue;
      share = Math.max(share, differs / Math.max(changes, MEASURABLE));
      break;
    }
  }
  return { error, effect, share, acts };
}

/** Whether something acts in a net that is not in the plain model. */
function acted(plain: Model, model: Model, net: string): boolean {
  const there = new Set(plain.adapters.map(({ name }) => name));
  const { trace } = traceNet(model, { net, dims: nominalDims });
  return trace.added.some(({ adapter }) => !there.has(adapter));
}
