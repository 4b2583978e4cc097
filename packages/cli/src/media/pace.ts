/** Waiting on codecs: short turns while they work, and an end to waiting when they stop working. */

/** How long a decoder or encoder may do nothing, in ms. */
export const PATIENCE = 30_000;

/** Lets native callbacks run. */
const turn = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 1));

/** Waits while `busy()`; throws `stalled()` where `progress()` stays the same for PATIENCE. */
export async function settle(
  busy: () => boolean,
  progress: () => number,
  stalled: () => Error,
): Promise<void> {
  let seen = progress();
  let since = performance.now();
  while (busy()) {
    await turn();
    const now = progress();
    if (now !== seen) {
      seen = now;
      since = performance.now();
    } else if (performance.now() - since > PATIENCE) throw stalled();
  }
}

/** The promise's value, or `late()` thrown after PATIENCE. */
export async function within<T>(promise: Promise<T>, late: () => Error): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  try {
    return await Promise.race([
      promise,
      new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(late()), PATIENCE);
      }),
    ]);
  } finally {
    clearTimeout(timer);
  }
}
