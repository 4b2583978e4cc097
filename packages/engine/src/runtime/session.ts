/** Where models run. `Runtime` is the contract; `OrtRuntime` is onnxruntime-node. */

import { parse } from 'node:path';

import type * as ort from 'onnxruntime-node';

import { AttuneError } from '../errors.ts';
import type { DType, NDArray, TypedArray } from './array.ts';

/**
 * How a model's weights are held. `mapped`: read in place from their file, no private memory, for
 * big models. `prepacked`: copied into the kernels' own layouts, faster, for small ones.
 */
export type Profile = 'mapped' | 'prepacked';

export type Device = 'cpu' | 'cuda' | 'webgpu' | 'dml' | 'coreml';

export interface Session {
  /** Runs the model. Inputs are read in place; outputs are fresh arrays. */
  run(
    feeds: Readonly<Record<string, NDArray>>,
    outputs: readonly string[],
  ): Promise<Record<string, NDArray>>;
  /** Frees the session's memory; using it afterwards is an error. */
  release(): Promise<void>;
}

export interface Runtime {
  readonly profile: Profile;
  readonly threads: number;
  load(model: Uint8Array): Promise<Session>;
  /** Releases every session that is still alive. */
  release(): Promise<void>;
}

export interface RuntimeOptions {
  /** Default `prepacked`. */
  readonly profile?: Profile;
  /** Threads inside an op. Default: as ONNX Runtime chooses. */
  readonly threads?: number;
  /** Default `cpu`. */
  readonly device?: Device;
}

const ortTypes: Readonly<Partial<Record<DType, ort.Tensor.Type>>> = {
  f32: 'float32',
  f16: 'float16',
  f64: 'float64',
  i64: 'int64',
  i32: 'int32',
  u8: 'uint8',
  bool: 'bool',
};

const dtypes = Object.fromEntries(
  Object.entries(ortTypes).map(([dtype, type]) => [type, dtype]),
) as Readonly<Record<string, DType>>;

export class OrtRuntime implements Runtime {
  readonly profile: Profile;
  readonly threads: number;
  readonly device: Device;
  readonly #alive = new Set<OrtSession>();

  constructor({ profile = 'prepacked', threads = 0, device = 'cpu' }: RuntimeOptions = {}) {
    this.profile = profile;
    this.threads = threads;
    this.device = device;
  }

  async load(model: Uint8Array): Promise<Session> {
    const api = await import('onnxruntime-node');
    await breathe();
    let inner: ort.InferenceSession;
    try {
      inner = await api.InferenceSession.create(model, this.#options());
    } catch (error) {
      throw this.#explain(error);
    }
    const session = new OrtSession(inner, api, () => this.#alive.delete(session));
    this.#alive.add(session);
    return session;
  }

  async release(): Promise<void> {
    for (const session of this.#alive) await session.release();
  }

  #options(): ort.InferenceSession.SessionOptions {
    const mapped = this.profile === 'mapped';
    return {
      // The CPU stands in for single ops by itself; named here, it would stand in for the device.
      executionProviders: [this.device],
      ...(this.threads ? { intraOpNumThreads: this.threads } : {}),
      interOpNumThreads: 1,
      graphOptimizationLevel: mapped ? 'extended' : 'all',
      logSeverityLevel: 3,
      // Keys of ONNX Runtime's session configuration; the values are strings.
      extra: {
        session: {
          disable_prepacking: mapped ? '1' : '0',
          model_external_initializers_file_folder_path: parse(process.cwd()).root,
          intra_op: { allow_spinning: '0' },
        },
        ...(mapped ? { optimization: { disable_specified_optimizers: 'ConstantFolding' } } : {}),
      },
    };
  }

  #explain(error: unknown): AttuneError {
    const reason = error instanceof Error ? error.message : String(error);
    if (this.device === 'cpu')
      return new AttuneError('RUNTIME', `ONNX Runtime refused a model: ${reason}`, { reason });
    return new AttuneError(
      'DEVICE_MISSING',
      `The device "${this.device}" cannot be used here: ${reason}. ${missing[this.device]} Use --device cpu to run without it.`,
      { device: this.device, reason },
    );
  }
}

const missing: Readonly<Record<Device, string>> = {
  cpu: '',
  cuda: 'It needs Linux x64, CUDA 12 with cuDNN 9 on the loader path, and the provider libraries that onnxruntime-node fetches in its install script (allow its build and reinstall).',
  webgpu: 'It needs a Vulkan, Metal or Direct3D 12 driver.',
  dml: 'It needs Windows with DirectX 12.',
  coreml: 'It needs macOS on Apple silicon.',
};

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
    const results = await this.#inner.run(fed, outputs);
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
