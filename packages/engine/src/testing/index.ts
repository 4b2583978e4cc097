/** What tests of graphs need: closeness, evaluation, and gradients checked against differences. */

import {
  AttuneError,
  type Device,
  f32,
  type F32Array,
  grad,
  input,
  type NDArray,
  OrtRuntime,
  Program,
  Rng,
  type Runtime,
  type RuntimeOptions,
  type Shape,
  type Tensor,
  toF32,
  Weights,
} from '@attune/engine';

/** What tests run their graphs on: one thread of the CPU, or the device in `ATTUNE_TEST_DEVICE`. */
export const testRuntime = (options: RuntimeOptions = {}): OrtRuntime =>
  new OrtRuntime({
    threads: 1,
    device: (process.env.ATTUNE_TEST_DEVICE ?? 'cpu') as Device,
    ...options,
  });

/** The largest difference of two arrays, relative to the largest entry of `want`. */
export function relativeError(got: NDArray, want: NDArray): number {
  if (got.shape.join() !== want.shape.join())
    throw new AttuneError('SHAPE_MISMATCH', `got [${got.shape}], want [${want.shape}].`);
  const a = toF32(got).data;
  const b = toF32(want).data;
  let far = 0;
  let top = 0;
  for (let i = 0; i < b.length; i++) {
    if (!Number.isFinite(a[i])) return Number.POSITIVE_INFINITY;
    far = Math.max(far, Math.abs(a[i] - b[i]));
    top = Math.max(top, Math.abs(b[i]));
  }
  return far === 0 ? 0 : far / top;
}

/** Runs a graph once. */
export async function evaluate(
  outputs: Readonly<Record<string, Tensor>>,
  feeds: Readonly<Record<string, NDArray>>,
  { weights = Weights.fromArrays({}), runtime }: { weights?: Weights; runtime?: Runtime } = {},
): Promise<Record<string, NDArray>> {
  const own = runtime ?? testRuntime();
  const program = new Program({ outputs, marks: [] }, { runtime: own, weights });
  try {
    return await program.run(feeds);
  } finally {
    await program.release();
  }
}

/** What `checkGrad` found. */
export interface GradCheck {
  /** Directional derivative by automatic differentiation and by central differences. */
  readonly exact: number;
  readonly numeric: number;
  /** Their distance, relative to the sum of the derivative's terms without their signs. */
  readonly relative: number;
}

/** How `checkGrad` draws and steps. */
export interface GradCheckOptions {
  /** Step of the central difference. */
  readonly eps?: number;
  readonly seed?: number;
  /** Values of input `index`; default: standard normals. */
  readonly draw?: (rng: Rng, shape: Shape, index: number) => F32Array;
  /** Frozen parameters that `f` reads. */
  readonly weights?: Weights;
  readonly runtime?: Runtime;
}

/**
 * Compares Σ f(x) · c along ONE random direction with a central difference. `shapes` are those of
 * the differentiable inputs.
 */
export async function checkGrad(
  f: (...xs: Tensor[]) => Tensor,
  shapes: readonly Shape[],
  {
    eps = 1e-2,
    seed = 1,
    draw = (rng, shape) => rng.normals(shape),
    weights = Weights.fromArrays({}),
    runtime = testRuntime(),
  }: GradCheckOptions = {},
): Promise<GradCheck> {
  const rng = Rng.of(seed);
  const xs = shapes.map((shape, i) => input(`x${i}`, shape));
  const y = f(...xs);
  const at = shapes.map((shape, i) => draw(rng.fork('x', i), shape, i));
  const way = shapes.map((shape, i) => rng.fork('v', i).normals(shape));
  const c = rng.fork('c').normals(y.shape);
  const moved = (by: number): Record<string, NDArray> =>
    Object.fromEntries(
      at.map(({ data, shape }, i) => [
        `x${i}`,
        f32(
          data.map((v, k) => v + by * way[i].data[k]),
          shape,
        ),
      ]),
    );

  const program = new Program({ outputs: { y }, marks: [] }, { runtime, weights });
  const score = async (by: number) => dot(toF32((await program.run(moved(by))).y), c).sum;
  const numeric = ((await score(eps)) - (await score(-eps))) / (2 * eps);
  await program.release();

  const found = grad([y], [input('c', y.shape)], xs);
  const grads = Object.fromEntries(found.flatMap((g, i) => (g ? [[`g${i}`, g]] : [])));
  const results = await evaluate(grads, { ...moved(0), c }, { weights, runtime });
  const parts = way.flatMap((v, i) => (found[i] ? [dot(toF32(results[`g${i}`]), v)] : []));
  const exact = parts.reduce((total, part) => total + part.sum, 0);
  const size = parts.reduce((total, part) => total + part.size, 0);
  return { exact, numeric, relative: Math.abs(exact - numeric) / (size || 1) };
}

/** Σ a · b and Σ |a · b|, in double precision. */
function dot(a: F32Array, b: F32Array): { sum: number; size: number } {
  let sum = 0;
  let size = 0;
  for (let i = 0; i < a.data.length; i++) {
    const term = a.data[i] * b.data[i];
    sum += term;
    size += Math.abs(term);
  }
  return { sum, size };
}
