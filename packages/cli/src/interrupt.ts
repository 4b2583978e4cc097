/** Ctrl-C: the first one asks a run to stop after its step, the second ends the process at once. */

/** Runs `work` with a signal that fires at Ctrl-C. */
export async function untilInterrupted<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const stop = new AbortController();
  const onInterrupt = () => {
    if (stop.signal.aborted) process.exit(130);
    process.stderr.write('\nstopping after this step; press Ctrl-C again to quit at once\n');
    stop.abort();
  };
  process.on('SIGINT', onInterrupt);
  try {
    return await work(stop.signal);
  } finally {
    process.off('SIGINT', onInterrupt);
  }
}

/** Seconds per step since the first one seen, and an estimate of what is left. */
export function pace(total: number): (step: number) => string {
  const began = performance.now();
  let first: number | undefined;
  return (step) => {
    first ??= step;
    const each = (performance.now() - began) / (step - first + 1) / 1000;
    return `${each.toFixed(2)} s/step  ${Math.round(each * (total - step))} s left`;
  };
}
