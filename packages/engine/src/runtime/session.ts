/** The runtime of this process: sessions of onnxruntime-node. */

import { availableParallelism } from 'node:os';

import type * as ort from 'onnxruntime-node';

import { AttuneError } from '../errors.ts';
import type { NDArray, TypedArray } from './array.ts';
import {
  checkOptions,
  type Device,
  dtypes,
  ortTypes,
  type Profile,
  failure,
  refusal,
  type Runtime,
  type RuntimeOptions,
  type Session,
  sessionOptions,
  unloadable,
  withoutTelemetry,
} from './runtime.ts';
import { ThreadRuntime } from './thread.ts';

/** onnxruntime-node in this process. The library is imported at the first `load`. */
export class OrtRuntime implements Runtime {
  readonly profile: Profile | undefined;
  readonly threads: number;
  readonly device: Device;
  readonly #intra: number | undefined;
  readonly #alive = new Set<OrtSession>();

  /** @throws BAD_ARGUMENT for threads or a device that there cannot be */
  constructor(options: RuntimeOptions = {}) {
    checkOptions(options);
    const { profile, threads, device = 'cpu' } = options;
    this.profile = profile;
    this.threads = threads ?? availableParallelism();
    this.#intra = threads;
    this.device = device;
  }

  /** @throws RUNTIME where ONNX Runtime cannot be loaded or refuses the model, DEVICE_MISSING where the device cannot be used */
  async load(model: Uint8Array | string, profile?: Profile): Promise<Session> {
    withoutTelemetry();
    const api = await import('onnxruntime-node').catch((error) => {
      throw unloadable(error);
    });
    await breathe();
    let inner: ort.InferenceSession;
    try {
      const { device } = this;
      const options = sessionOptions(model, {
        profile: this.profile ?? profile ?? 'prepacked',
        device,
        ...(this.#intra && { threads: this.#intra }),
      });
      const { InferenceSession: sessions } = api;
      inner = await (typeof model === 'string'
        ? sessions.create(model, options)
        : sessions.create(model, options));
    } catch (error) {
      throw refusal(this.device, error);
    }
    const session = new OrtSession(inner, api, () => this.#alive.delete(session));
    this.#alive.add(session);
    return session;
  }

  /** Sessions on a worker thread, one thread inside an op: for work that shares nothing, side by side. */
  fork(): Runtime {
    return new ThreadRuntime(this);
  }

  /** Releases every session that is still alive. The runtime can be used again. */
  async release(): Promise<void> {
    for (const session of this.#alive) await session.release();
  }
}

class OrtSession implements Session {
  #inner: ort.InferenceSession | undefined;
  readonly #api: typeof ort;
  readonly #forget: () => void;

  constructor(inner: ort.InferenceSession, api: typeof ort, forget: () => void) {
    this.#inner = inner;
    this.#api = api;
    this.#forget = forget;
  }

  async run(
    feeds: Readonly<Record<string, NDArray>>,
    outputs: readonly string[],
  ): Promise<Record<string, NDArray>> {
    if (!this.#inner) throw new AttuneError('RELEASED', 'A released session was run.');
    const fed: Record<string, ort.Tensor> = {};
    for (const [name, { dtype, shape, data }] of Object.entries(feeds)) {
      const type = ortTypes[dtype];
      if (!type) throw new AttuneError('BAD_ARGUMENT', `${name}: ${dtype} cannot be fed.`);
      fed[name] = new this.#api.Tensor(type as 'float32', data as Float32Array, shape);
    }
    await breathe();
    const results = await this.#inner.run(fed, outputs).catch((error) => {
      throw failure(error);
    });
    return Object.fromEntries(
      outputs.map((name) => {
        const { type, dims, data } = results[name];
        return [name, { dtype: dtypes[type], shape: dims, data: data as TypedArray }];
      }),
    );
  }

  async release(): Promise<void> {
    await this.#inner?.release();
    this.#inner = undefined;
    this.#forget();
  }
}

/** Creating and running a session block the event loop: let others in between. */
const breathe = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
