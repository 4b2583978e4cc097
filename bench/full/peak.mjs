/** The most anonymous memory this process has had since it was asked, looked at every 20 ms from a thread. */

import { readFileSync } from 'node:fs';
import { isMainThread, parentPort, Worker } from 'node:worker_threads';

/** Bytes; Linux only. */
export const anonymous = () =>
  1024 * Number(/RssAnon:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]);

export class Peak {
  #worker = new Worker(new URL(import.meta.url));

  /** Bytes at most so far. */
  most() {
    this.#worker.postMessage('most');
    return new Promise((resolve) => this.#worker.once('message', resolve));
  }

  close() {
    return this.#worker.terminate();
  }
}

if (!isMainThread) {
  let most = 0;
  const look = () => (most = Math.max(most, anonymous()));
  setInterval(look, 20);
  parentPort.on('message', () => parentPort.postMessage(look()));
}
