/** Numbers that went wrong: the weight they came from, and trainings that are past saving. */

import { AttuneError, scan, type WeightEntry, type Weights } from '@attune/engine';

import type { Params } from './learner.ts';

/** The first weight that holds NaN or infinity. Reads all before it. */
export function firstNotFinite(weights: Weights): WeightEntry | undefined {
  for (const name of weights.names()) {
    const entry = weights.entry(name);
    if (!scan(entry.load()).finite) return entry;
  }
  return undefined;
}

/** NOT_FINITE for a run that made NaN: it names the weight that is to blame, or says `message` where none is. */
function notFinite(weights: Weights, message: string): AttuneError {
  const culprit = firstNotFinite(weights);
  if (!culprit) return new AttuneError('NOT_FINITE', message);
  const { name, source } = culprit;
  return new AttuneError(
    'NOT_FINITE',
    `${source?.file ?? 'The model'}: the tensor ${name} holds NaN or infinity: take another copy; the training that wrote it diverged, or the file is damaged.`,
    { name },
  );
}

/** What a run failed with; where that is NOT_FINITE, with the weight that is to blame. */
export const blamed = (error: unknown, weights: Weights): unknown =>
  AttuneError.is(error) && error.code === 'NOT_FINITE' ? notFinite(weights, error.message) : error;

/** Steps in a row without a finite gradient that no batch can be to blame for. */
const MOST = 3;

/** Watches a training whose steps leave a gradient out where it is not finite. */
export class Divergence {
  readonly #weights: Weights;
  #row = 0;

  /** `weights` are those that it started with. */
  constructor(weights: Weights) {
    this.#weights = weights;
  }

  /**
   * Throws NOT_FINITE at the third step in a row whose gradient was left out, and at the last step where that
   * was its own fate or what trains is not finite.
   */
  heed({
    step,
    last,
    skipped,
    params,
    lr,
  }: {
    readonly step: number;
    readonly last: boolean;
    readonly skipped: boolean;
    readonly params: Params;
    readonly lr: number;
  }): void {
    this.#row = skipped ? this.#row + 1 : 0;
    const lost =
      last && !skipped && Object.keys(params).find((name) => !params[name].every(Number.isFinite));
    if (this.#row < MOST && !(last && skipped) && !lost) return;
    const what = lost ? `${lost} is` : 'loss or gradient are';
    const since = this.#row > 1 ? `, as in the ${this.#row - 1} before` : '';
    throw notFinite(
      this.#weights,
      `Step ${step}: ${what} not finite${since}. The training diverged: take a smaller learning rate than ${lr}, or look for NaN in the data.`,
    );
  }
}
