/** Runtimes beside each other, for micro-batches that share nothing but the parameters. */

import type { Runtime } from '@attune/engine';

/**
 * As many runtimes as run `count` equal units in whole rounds with a thread each: forks of `runtime`,
 * or itself where there is but one. Results must not depend on how many there are.
 */
export function sideBySide(
  runtime: Runtime,
  count: number,
): {
  readonly runtimes: readonly Runtime[];
  /** Ends the forks' threads; `runtime` itself stays. */
  readonly release: () => Promise<void>;
} {
  let side = Math.min(count, runtime.threads);
  while (count % side) side--;
  if (side === 1) return { runtimes: [runtime], release: async () => {} };
  const runtimes = Array.from({ length: side }, () => runtime.fork());
  return {
    runtimes,
    release: async () => {
      for (const own of runtimes) await own.release();
    },
  };
}
