/** Ctrl-C: the first one asks a run to stop after its step, the second ends the process at once. */

import { say } from './terminal.ts';

/** Runs `work` with a signal that fires at Ctrl-C; `what` says when it stops. */
export async function untilInterrupted<T>(
  work: (signal: AbortSignal) => Promise<T>,
  what = 'stopping after this step',
): Promise<T> {
  const stop = new AbortController();
  const onInterrupt = () => {
    if (stop.signal.aborted) {
      // By the signal itself: `exit` would end threads inside native code, which is an abort.
      process.off('SIGINT', onInterrupt);
      process.kill(process.pid, 'SIGINT');
      return;
    }
    say(`${what}; press Ctrl-C again to quit at once`);
    stop.abort();
  };
  process.on('SIGINT', onInterrupt);
  try {
    return await work(stop.signal);
  } finally {
    process.off('SIGINT', onInterrupt);
  }
}
