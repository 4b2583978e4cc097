/** Ctrl-C: the first one asks a run to stop after its step, the second ends the process at once. */

import { say } from './terminal.ts';

/** Runs `work` with a signal that fires at Ctrl-C. */
export async function untilInterrupted<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const stop = new AbortController();
  const onInterrupt = () => {
    if (stop.signal.aborted) process.exit(130);
    say('stopping after this step; press Ctrl-C again to quit at once');
    stop.abort();
  };
  process.on('SIGINT', onInterrupt);
  try {
    return await work(stop.signal);
  } finally {
    process.off('SIGINT', onInterrupt);
  }
}
