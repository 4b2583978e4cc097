/** Where models run: the contract of a runtime, and how ONNX Runtime is asked to keep it. */

import { parse } from 'node:path';

import type * as ort from 'onnxruntime-node';

import { AttuneError, badArgument } from '../errors.ts';
import type { DType, NDArray } from './array.ts';

/**
 * How a model's weights are held. `mapped`: read in place from their file, no private memory, for
 * big models. `prepacked`: copied into the kernels' own layouts, faster, for small ones.
 */
export type Profile = 'mapped' | 'prepacked';

/** What ONNX Runtime computes on: the names of its execution providers. */
export const devices = ['cpu', 'cuda', 'webgpu', 'dml', 'coreml'] as const;
/** One of `devices`. */
export type Device = (typeof devices)[number];

/** More threads than any machine has: to make them all would fail half-way. */
const MOST_THREADS = 1024;

/** A loaded model. */
export interface Session {
  /**
   * Runs the model. Inputs are read in place; outputs are fresh arrays. `spent` names feeds that the caller does
   * not use again: a runtime may take their memory.
   */
  run(
    feeds: Readonly<Record<string, NDArray>>,
    outputs: readonly string[],
    spent?: ReadonlySet<string>,
  ): Promise<Record<string, NDArray>>;
  /** Frees the session's memory; using it afterwards is an error. */
  release(): Promise<void>;
}

/** What runs models. `OrtRuntime` is the one that this package has. */
export interface Runtime {
  /** The profile of every program; undefined: each program's as the size of its weights says. */
  readonly profile: Profile | undefined;
  readonly threads: number;
  readonly device: Device;
  /**
   * `model`: bytes whose external data is addressed from the root, or the path of a file with its
   * external data beside it. `profile` counts where the runtime has none of its own; default `prepacked`.
   */
  load(model: Uint8Array | string, profile?: Profile): Promise<Session>;
  /** The same kind of runtime on a thread of its own, with one thread inside an op. */
  fork(): Runtime;
  /** Releases every session that is still alive. */
  release(): Promise<void>;
}

/** Settings of an `OrtRuntime`. */
export interface RuntimeOptions {
  /** Default: each program's as the size of its weights says. */
  readonly profile?: Profile;
  /** Threads inside an op, 1 to 1024. Default: as ONNX Runtime chooses. */
  readonly threads?: number;
  /** Default `cpu`. */
  readonly device?: Device;
}

export const ortTypes: Readonly<Partial<Record<DType, ort.Tensor.Type>>> = {
  f32: 'float32',
  f16: 'float16',
  f64: 'float64',
  i64: 'int64',
  i32: 'int32',
  u8: 'uint8',
  bool: 'bool',
};

export const dtypes = Object.fromEntries(
  Object.entries(ortTypes).map(([dtype, type]) => [type, dtype]),
) as Readonly<Record<string, DType>>;

/** Throws BAD_ARGUMENT for threads or a device that there cannot be. */
export function checkOptions({ threads, device = 'cpu' }: RuntimeOptions): void {
  const whole = threads === undefined || (Number.isInteger(threads) && threads >= 1);
  if (!whole || (threads ?? 1) > MOST_THREADS)
    throw badArgument('runtime', `${threads} threads`, `give 1 to ${MOST_THREADS}`);
  if (!devices.includes(device))
    throw badArgument('runtime', `the device "${device}"`, `there are ${devices.join(', ')}`);
}

/**
 * ONNX Runtime counts its use for its makers, in files of the user's cache or of the working directory.
 * attune does not want that of anybody: it is off unless the environment says otherwise. To be called before
 * the library is loaded.
 */
export function withoutTelemetry(): void {
  process.env['ORT_DISABLE_TELEMETRY'] ??= '1';
}

/** ONNX Runtime's options for a session of this model. */
export function sessionOptions(
  model: Uint8Array | string,
  { profile = 'prepacked', threads, device = 'cpu' }: RuntimeOptions,
): ort.InferenceSession.SessionOptions {
  const mapped = profile === 'mapped';
  return {
    // The CPU stands in for single ops by itself; named here, it would stand in for the device.
    executionProviders: [device],
    ...(threads ? { intraOpNumThreads: threads } : {}),
    interOpNumThreads: 1,
    graphOptimizationLevel: mapped ? 'extended' : 'all',
    logSeverityLevel: 3,
    // Keys of ONNX Runtime's session configuration; the values are strings.
    extra: {
      session: {
        disable_prepacking: mapped ? '1' : '0',
        // A file's external data is looked for beside it.
        ...(typeof model === 'string'
          ? {}
          : { model_external_initializers_file_folder_path: parse(process.cwd()).root }),
        intra_op: { allow_spinning: '0' },
      },
      optimization: { disable_specified_optimizers: unwanted(mapped).join(';') },
    },
  };
}

/**
 * Optimisers that ONNX Runtime is to leave out. Fused with the sum before it, a normalisation loses, on a GPU, the
 * deviations that its gradient reads. Folded constants would be copies of mapped weights.
 */
const unwanted = (mapped: boolean): readonly string[] => [
  'SkipLayerNormFusion',
  ...(mapped ? ['ConstantFolding'] : []),
];

const reasonOf = (error: unknown): string =>
  error instanceof Error ? error.message : String(error);

/** What to do where a reason speaks of memory. */
const advice = (reason: string): string =>
  /alloc|failed to map|out of memory/i.test(reason)
    ? ' There is too little memory: raise the limit (ulimit -v), or take smaller batches or sizes.'
    : '';

/** Why the library could not be loaded. */
export function unloadable(error: unknown): AttuneError {
  const reason = reasonOf(error);
  const rest = advice(reason) || ' Install onnxruntime-node again (attune doctor tells more).';
  return new AttuneError('RUNTIME', `ONNX Runtime cannot be loaded: ${reason}.${rest}`, { reason });
}

/** Why a session could not be run. */
export function failure(error: unknown): AttuneError {
  const reason = reasonOf(error);
  return new AttuneError('RUNTIME', `ONNX Runtime failed: ${reason}${advice(reason)}`, { reason });
}

/** Why a session could not be made. */
export function refusal(device: Device, error: unknown): AttuneError {
  const reason = reasonOf(error);
  if (device === 'cpu')
    return new AttuneError('RUNTIME', `ONNX Runtime refused a model: ${reason}${advice(reason)}`, {
      reason,
    });
  return new AttuneError(
    'DEVICE_MISSING',
    `The device "${device}" cannot be used here: ${reason}. ${missing[device]} Use --device cpu to run without it.`,
    { device, reason },
  );
}

const missing: Readonly<Record<Device, string>> = {
  cpu: '',
  cuda: 'It needs Linux x64, CUDA 12 with cuDNN 9 on the loader path, and the provider libraries that onnxruntime-node fetches in its install script (allow its build and reinstall).',
  webgpu: 'It needs a Vulkan, Metal or Direct3D 12 driver.',
  dml: 'It needs Windows with DirectX 12.',
  coreml: 'It needs macOS on Apple silicon.',
};
