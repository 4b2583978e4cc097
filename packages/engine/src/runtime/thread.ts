/** A runtime on a thread of its own: its sessions run beside the caller and beside other threads'. */

import { createRequire } from 'node:module';
import { Worker } from 'node:worker_threads';

import { AttuneError } from '../errors.ts';
import type { NDArray, TypedArray } from './array.ts';
import {
  type Device,
  dtypes,
  ortTypes,
  type Profile,
  failure,
  refusal,
  type Runtime,
  type Session,
  sessionOptions,
  withoutTelemetry,
} from './runtime.ts';

/** What crosses to the thread and back: arrays by ONNX Runtime's own type names. */
interface Wire {
  readonly type: string;
  readonly dims: readonly number[];
  readonly data: TypedArray;
}

type Request =
  | { readonly do: 'load'; readonly model: Uint8Array | string; readonly options: object }
  | {
      readonly do: 'run';
      readonly session: number;
      readonly feeds: Readonly<Record<string, Wire>>;
      readonly outputs: readonly string[];
    }
  | { readonly do: 'release'; readonly session: number };

interface Reply {
  readonly id: number;
  readonly value?: unknown;
  readonly error?: string;
}

/** The thread's program. It is text so that it needs no file of its own beside a bundle. */
const program = `
const { parentPort, workerData } = require('node:worker_threads');
const ort = require(workerData.onnxruntime);
const sessions = [];
const jobs = {
  async load({ model, options }) {
    return sessions.push(await ort.InferenceSession.create(model, options)) - 1;
  },
  async run({ session, feeds, outputs }) {
    const fed = {};
    for (const [name, { type, data, dims }] of Object.entries(feeds))
      fed[name] = new ort.Tensor(type, data, dims);
    const results = await sessions[session].run(fed, outputs);
    const wire = {};
    for (const name of outputs) {
      const { type, dims, data } = results[name];
      wire[name] = { type, dims, data };
    }
    return wire;
  },
  async release({ session }) {
    await sessions[session].release();
    delete sessions[session];
  },
};
// What a run returns is handed over, not copied.
const buffersOf = (request, value) =>
  request.do === 'run' ? [...new Set(Object.values(value).map(({ data }) => data.buffer))] : [];
parentPort.on('message', async ({ id, request }) => {
  try {
    const value = await jobs[request.do](request);
    parentPort.postMessage({ id, value }, buffersOf(request, value));
  } catch (error) {
    parentPort.postMessage({ id, error: String(error?.message ?? error) });
  }
});
`;

interface Job {
  readonly answer: Promise<unknown>;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

function newJob(): Job {
  let ends!: Pick<Job, 'resolve' | 'reject'>;
  const answer = new Promise<unknown>((resolve, reject) => (ends = { resolve, reject }));
  return { answer, ...ends };
}

export class ThreadRuntime implements Runtime {
  readonly threads = 1;
  readonly profile: Profile | undefined;
  readonly device: Device;
  #worker: Worker | undefined;
  #asked = 0;
  #ending = false;
  /** What the thread was asked and has not answered yet. */
  readonly #jobs = new Map<number, Job>();

  constructor({ profile, device }: Pick<ThreadRuntime, 'profile' | 'device'>) {
    this.profile = profile;
    this.device = device;
  }

  async load(model: Uint8Array | string, profile?: Profile): Promise<Session> {
    const { device } = this;
    const options = sessionOptions(model, {
      profile: this.profile ?? profile ?? 'prepacked',
      threads: this.threads,
      device,
    });
    const session = (await this.#ask({ do: 'load', model, options }).catch((error) => {
      throw this.#ending ? error : refusal(this.device, error);
    })) as number;
    const home = this.#worker;
    let released = false;
    return {
      run: async (feeds, outputs, spent) => {
        if (released || this.#worker !== home)
          throw new AttuneError('RELEASED', 'A released session was run.');
        const sent = Object.fromEntries(
          Object.entries(feeds).map(([name, array]) => [name, toWire(name, array)]),
        );
        const given = Object.entries(sent).filter(([name]) => spent?.has(name));
        const wire = await this.#ask(
          { do: 'run', session, feeds: sent, outputs },
          given.map(([, { data }]) => data),
        ).catch((error) => {
          throw AttuneError.is(error) ? error : failure(error);
        });
        return Object.fromEntries(
          Object.entries(wire as Record<string, Wire>).map(([name, { type, dims, data }]) => [
            name,
            { dtype: dtypes[type], shape: dims, data },
          ]),
        );
      },
      release: async () => {
        if (released || this.#worker !== home) return;
        released = true;
        await this.#ask({ do: 'release', session });
      },
    };
  }

  fork(): Runtime {
    return new ThreadRuntime(this);
  }

  /** What is being computed is waited for: a thread that ends inside native code ends the process. */
  async release(): Promise<void> {
    this.#ending = true;
    await Promise.allSettled(Array.from(this.#jobs.values(), ({ answer }) => answer));
    await this.#worker?.terminate();
    this.#worker = undefined;
    this.#ending = false;
  }

  /** `given` are arrays of the request that change hands; others are copied. */
  async #ask(request: Request, given: readonly TypedArray[] = []): Promise<unknown> {
    if (this.#ending) throw new AttuneError('RELEASED', 'The runtime is being released.');
    const worker = (this.#worker ??= this.#start());
    const id = this.#asked++;
    const job = newJob();
    this.#jobs.set(id, job);
    worker.ref();
    try {
      const whole = given.filter(({ buffer, byteLength }) => buffer.byteLength === byteLength);
      worker.postMessage({ id, request }, [
        ...new Set(whole.map(({ buffer }) => buffer as ArrayBuffer)),
      ]);
      return await job.answer;
    } finally {
      this.#jobs.delete(id);
      if (this.#jobs.size === 0) worker.unref();
    }
  }

  #start(): Worker {
    withoutTelemetry();
    const onnxruntime = createRequire(import.meta.url).resolve('onnxruntime-node');
    const worker = new Worker(program, { eval: true, workerData: { onnxruntime } });
    worker.on('message', ({ id, value, error }: Reply) => {
      const job = this.#jobs.get(id);
      if (error === undefined) job?.resolve(value);
      else job?.reject(new Error(error));
    });
    const fail = (error: Error) => {
      for (const { reject } of this.#jobs.values()) reject(error);
    };
    worker.on('error', fail);
    worker.on('exit', () =>
      fail(new AttuneError('RELEASED', 'The thread of a runtime ended while it was working.')),
    );
    return worker;
  }
}

function toWire(name: string, { dtype, shape, data }: NDArray): Wire {
  const type = ortTypes[dtype];
  if (!type) throw new AttuneError('BAD_ARGUMENT', `${name}: ${dtype} cannot be fed.`);
  return { type, dims: shape, data };
}
