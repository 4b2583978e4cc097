/** K-Bin Diffusion Sampling: the times a student is trained on, one from each of k bins. */

import { badArgument, type Rng } from '@attune/engine';

/**
 * Where the first (noisiest) time lies: `terminal` at T − 1, where the input really is pure noise;
 * `uniform` anywhere in the top bin, the paper's literal reading.
 */
export type FirstStep = 'terminal' | 'uniform';

/** k + 1 borders of the bins over 0 … T − 1: bin j holds edges[j] … edges[j + 1] − 1. */
export function binEdges(k: number, length: number): number[] {
  if (!(Number.isInteger(k) && k >= 1 && k <= length))
    throw badArgument('kBin', `${k} bins over ${length} times`, `take 1 to ${length} bins`);
  return Array.from({ length: k + 1 }, (_, j) => Math.floor((j * length) / k));
}

/** k strictly decreasing times of a schedule of `length` times, one uniform draw per bin. */
export function kBin(
  rng: Rng,
  k: number,
  length: number,
  firstStep: FirstStep = 'terminal',
): number[] {
  const edges = binEdges(k, length);
  return Array.from({ length: k }, (_, step) => {
    const low = edges[k - 1 - step];
    const high = edges[k - step];
    return step === 0 && firstStep === 'terminal' ? length - 1 : low + rng.int(high - low);
  });
}
