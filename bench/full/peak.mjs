/** The most anonymous memory this process has had since it was asked, looked at every 20 ms from a thread. Linux only. */

import { readFileSync } from 'node:fs';
import { isMainThread, Worker, workerData } from 'node:worker_threads';

/** Bytes. */
const anonymous = () =>
  1024 * Number(/RssAnon:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]);

export class Peak {
  #shared = new Float64Array(new SharedArrayBuffer(8));
  #worker = new Worker(new URL(import.meta.url), { workerData: this.#shared });

  /** Bytes at most so far. */
  most() {
    return Math.max(this.#shared[0], anonymous());
  }

  close() {
    return this.#worker.terminate();
  }
}

if (!isMainThread)
  setInterval(() => {
    workerData[0] = Math.max(workerData[0], anonymous());
  }, 20);
