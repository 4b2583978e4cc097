/** What tests of graphs need: closeness, evaluation, and gradients checked against differences. */

import { grad } from '../autodiff.ts';
import { AttuneError } from '../errors.ts';
import { input } from '../graph/leaf.ts';
import type { Shape } from '../graph/shape.ts';
import type { Tensor } from '../graph/tensor.ts';
import { mul } from '../ops/elementwise.ts';
import { sum } from '../ops/structural.ts';
import { type F32Array, f32, type NDArray, toF32 } from '../runtime/array.ts';
import { Program } from '../runtime/program.ts';
import { Rng } from '../runtime/rng.ts';
import { OrtRuntime, type Runtime } from '../runtime/session.ts';
import { Weights } from '../weights/store.ts';

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
  const own = runtime ?? new OrtRuntime({ threads: 1 });
  const program = new Program({ outputs, marks: [] }, { runtime: own, weights });
  try {
    return await program.run(feeds);
  } finally {
    await program.release();
  }
}

export interface GradCheck {
  /** Directional derivative by automatic differentiation and by central differences. */
  readonly exact: number;
  readonly numeric: number;
  readonly relative: number;
}

/**
 * Compares Σ f(x) · c along ONE random direction with a central difference. `shapes` are those of
 * the differentiable inputs; `draw` makes their values (default: standard normals).
 */
export async function checkGrad(
  f: (...xs: Tensor[]) => Tensor,
  shapes: readonly Shape[],
  { eps = 1e-2, seed = 1, draw = (rng: Rng, shape: Shape): F32Array => rng.normals(shape) } = {},
): Promise<GradCheck> {
  const rng = Rng.of(seed);
  const xs = shapes.map((shape, i) => input(`x${i}`, shape));
  const y = f(...xs);
  const seedOf = input('c', y.shape);
  const score = sum(mul(y, seedOf));
  const found = grad([y], [seedOf], xs);
  const at = shapes.map((shape, i) => draw(rng.fork('x', i), shape));
  const way = shapes.map((shape, i) => rng.fork('v', i).normals(shape));
  const c = rng.fork('c').normals(y.shape);
  const moved = (by: number): Record<string, NDArray> => ({
    c,
    ...Object.fromEntries(
      at.map((x, i) => [
        `x${i}`,
        f32(
          x.data.map((v, k) => v + by * way[i].data[k]),
          x.shape,
        ),
      ]),
    ),
  });
  const runtime = new OrtRuntime({ threads: 1 });
  const value = async (by: number) =>
    Number((await evaluate({ score }, moved(by), { runtime })).score.data[0]);
  const grads = Object.fromEntries(found.flatMap((g, i) => (g ? [[`g${i}`, g]] : [])));
  const exactGrads = await evaluate(grads, moved(0), { runtime });
  let exact = 0;
  let size = 0;
  for (const [i, v] of way.entries()) {
    const g = exactGrads[`g${i}`];
    if (!g) continue;
    const data = toF32(g).data;
    for (let k = 0; k < data.length; k++) {
      exact += data[k] * v.data[k];
      size += Math.abs(data[k] * v.data[k]);
    }
  }
  const numeric = ((await value(eps)) - (await value(-eps))) / (2 * eps);
  return { exact, numeric, relative: Math.abs(exact - numeric) / (size || 1) };
}
