/** What each case of test/parity/fixtures/ops.safetensors computes, in the engine's own ops. */

import { constant, i64, type Tensor, values } from '../src/index.ts';
import { ops } from '../src/ops/index.ts';

/** The ops that formulas have called so far, by their names in the registry. */
export const called = new Set<string>();

const told = Object.fromEntries(
  Object.entries<(...args: never[]) => unknown>(ops).map(([name, op]) => [
    name,
    (...args: never[]) => {
      called.add(name);
      return op(...args);
    },
  ]),
) as unknown as typeof ops;

const {
  abs,
  accumulate,
  add,
  argmax,
  attention,
  cast,
  clamp,
  concat,
  conv2d,
  convInputGrad,
  convWeightGrad,
  cos,
  div,
  equal,
  erf,
  exp,
  expand,
  flipKernel,
  floor,
  gather,
  gelu,
  gemm,
  greater,
  groupNorm,
  layerNorm,
  leakyRelu,
  less,
  linear,
  log,
  logSoftmax,
  logSumExp,
  matmul,
  maximum,
  mean,
  minimum,
  mul,
  neg,
  normalize,
  pad,
  quickGelu,
  reciprocal,
  relu,
  reshape,
  scatterAdd,
  sigmoid,
  sign,
  silu,
  sin,
  slice,
  softmax,
  softplus,
  split,
  sqrt,
  square,
  sub,
  sum,
  sumTo,
  swap,
  tanh,
  transpose,
  transposed,
  upsample,
  where,
} = told;

/** What a case feeds, by the fixture's names. */
export interface Given {
  readonly x: Tensor;
  readonly w: Tensor;
  readonly b: Tensor;
  readonly q: Tensor;
  readonly k: Tensor;
  readonly v: Tensor;
  readonly mask: Tensor;
  readonly ids: Tensor;
}

type Formula = (given: Given) => Tensor;

const conv =
  (stride: number, padding: number | readonly [number, number, number, number]): Formula =>
  ({ x, w, b }) =>
    conv2d(x, w, b, { stride, padding });

/** A kernel of 3 × 3 with a pixel of padding on every side. */
const sized = (stride: number) => ({ stride, pads: [1, 1, 1, 1] as const });

const of =
  (op: (x: Tensor) => Tensor): Formula =>
  ({ x }) =>
    op(x);

/** A matrix by its entries, as a literal. */
const matrix = (rows: number, columns: number, entry: (i: number, j: number) => number): Tensor =>
  values(
    Array.from({ length: rows * columns }, (_, n) => entry(Math.floor(n / columns), n % columns)),
    [rows, columns],
  );

/** Rows of `x` along `axis`, in the order of `order`. */
function reordered(x: Tensor, axis: number, order: readonly number[]): Tensor {
  const front = [axis, ...[...x.shape.keys()].filter((i) => i !== axis)];
  const back = x.shape.map((_, i) => front.indexOf(i));
  const ids = constant(i64(order, [order.length]));
  return transpose(gather(transpose(x, front), ids), back);
}

const nearest = (from: number, to: number): number[] =>
  Array.from({ length: to }, (_, i) => Math.floor((i * from) / to));

/** Bilinear doubling of one axis as a matrix: a quarter of the neighbour, three of one's own. */
const doubling = (n: number): Tensor =>
  matrix(2 * n, n, (i, j) => {
    const at = Math.min(Math.max((i + 0.5) / 2 - 0.5, 0), n - 1);
    return Math.max(0, 1 - Math.abs(at - j));
  });

const norm = (x: Tensor): Tensor => sqrt(sum(square(x), [-1], { keep: true }));

export const formulas: Readonly<Record<string, Formula>> = {
  conv2d_3x3: conv(1, 1),
  conv2d_3x3_nobias: ({ x, w }) => conv2d(x, w, undefined, { padding: 1 }),
  conv2d_3x3_stride2: conv(2, 1),
  conv2d_3x3_stride2_nopad: conv(2, 0),
  conv2d_1x1: conv(1, 0),
  conv2d_1x1_stride2: conv(2, 0),
  conv2d_patch: conv(4, 0),
  conv2d_groups: ({ x, w, b }) => {
    const [xs, ws] = [split(x, [3, 3], 1), split(w, [2, 2], 0)];
    const parts = xs.map((part, i) => conv2d(part, ws[i], undefined, { padding: 1 }));
    return add(concat(parts, 1), reshape(b, [4, 1, 1]));
  },
  conv2d_pad_right_bottom: conv(2, [0, 0, 1, 1]),
  linear: ({ x, w, b }) => linear(x, w, b),
  linear_nobias: ({ x, w }) => linear(x, w),
  matmul_batched: ({ x, w }) => matmul(x, w),
  embedding: ({ ids, w }) => gather(w, ids),
  group_norm: ({ x, w, b }) => groupNorm(x, 3, w, b),
  group_norm_frames: ({ x, w, b }) => groupNorm(x, 2, w, b, 1e-6),
  layer_norm: ({ x, w, b }) => layerNorm(x, w, b),
  softmax: of(softmax),
  softmax_axis1: of((x) => softmax(x, 1)),
  log_softmax: of(logSoftmax),
  logsumexp: of((x) => reshape(logSumExp(x), [2, 3])),
  geglu: of((x) => {
    const [value, gate] = split(x, [4, 4], -1);
    return mul(value, gelu(gate));
  }),
  gelu: of(gelu),
  gelu_tanh: of((x) => {
    const inner = mul(add(x, mul(mul(square(x), x), 0.044715)), Math.sqrt(2 / Math.PI));
    return mul(mul(x, 0.5), add(tanh(inner), 1));
  }),
  quick_gelu: of(quickGelu),
  silu: of(silu),
  relu: of(relu),
  leaky_relu: of((x) => leakyRelu(x, 0.2)),
  sigmoid: of(sigmoid),
  tanh: of(tanh),
  softplus: of(softplus),
  erf: of(erf),
  exp: of(exp),
  sin: of(sin),
  cos: of(cos),
  abs: of(abs),
  square: of(square),
  clamp: of((x) => clamp(x, -0.5, 0.8)),
  mean_all: of(mean),
  sum_axis1: of((x) => sum(x, [1])),
  mean_last_keepdim: of((x) => mean(x, [-1], { keep: true })),
  max_last: of((x) =>
    reshape(
      split(
        x,
        Array.from({ length: 7 }, () => 1),
        -1,
      ).reduce((a, b) => maximum(a, b)),
      [3, 5],
    ),
  ),
  variance: of((x) => mean(square(sub(x, mean(x, [-1], { keep: true }))), [-1])),
  l2_norm: of((x) => reshape(norm(x), [3, 5])),
  l2_normalise: of((x) => div(x, norm(x))),
  cumsum: of((x) =>
    matmul(
      matrix(5, 5, (i, j) => Number(j <= i)),
      x,
    ),
  ),
  transpose: of((x) => transpose(x, [2, 0, 1])),
  slice: of((x) => slice(slice(x, 1, 1, 4), 2, 2)),
  flip: of((x) => reordered(x, 1, [4, 3, 2, 1, 0])),
  pad: of((x) => pad(pad(x, 2, 1, 2), 1, 0, 1)),
  tile: of((x) => concat([x, x], 1)),
  repeat_interleave: of((x) => reordered(x, 0, [0, 0, 0, 1, 1, 1, 2, 2, 2])),
  log: of(log),
  sqrt: of(sqrt),
  rsqrt: of((x) => reciprocal(sqrt(x))),
  add_broadcast: ({ x, w }) => add(x, w),
  mul_broadcast: ({ x, w }) => mul(x, w),
  sub_broadcast: ({ x, w }) => sub(x, w),
  div: ({ x, w }) => div(x, w),
  maximum: ({ x, w }) => maximum(x, w),
  minimum: ({ x, w }) => minimum(x, w),
  where: ({ x, w }) => where(greater(x, w), mul(x, w), add(x, w)),
  concat: ({ x, w }) => concat([x, w], 1),
  gather_rows: ({ ids, w }) =>
    gather(reshape(w, [15, 2]), add(ids, constant(i64([0, 5, 10], [3])))),
  nearest_2x: of((x) => upsample(x, 2)),
  nearest_size: of((x) => reordered(reordered(x, 2, nearest(4, 7)), 3, nearest(5, 9))),
  bilinear_2x: of((x) => matmul(matmul(doubling(3), x), transpose(doubling(4), [1, 0]))),
  avg_pool2: of((x) => mean(reshape(x, [2, 3, 2, 2, 3, 2]), [3, 5])),
  mse: ({ x, w }) => mean(square(sub(x, w))),
  huber: ({ x, w }) => {
    const far = abs(sub(x, w));
    return mean(where(less(far, 1), mul(square(far), 0.5), sub(far, 0.5)));
  },
  cross_entropy: ({ x, ids }) => {
    const flat = reshape(logSoftmax(x), [24]);
    return mul(mean(gather(flat, add(ids, constant(i64([0, 6, 12, 18], [4]))))), -1);
  },
  attention: ({ q, k, v }) => attention(q, k, v),
  attention_causal: ({ q, k, v }) =>
    attention(q, k, v, { bias: matrix(6, 6, (i, j) => (j <= i ? 0 : -1e4)) }),
  attention_masked: ({ q, k, v, mask }) => attention(q, k, v, { bias: mask }),
  swap: of(swap),
  expand: of((x) => expand(x, [2, 4, 3, 5])),
  sum_to: of((x) => sumTo(x, [3, 1, 5])),
  scatter_add: ({ ids, x }) => scatterAdd(ids, x, 6),
  neg: of(neg),
  sign: of(sign),
  floor: of(floor),
  greater: ({ x, w }) => cast(greater(x, w), 'i64'),
  less: ({ x, w }) => cast(less(x, w), 'i64'),
  equal: ({ x, w }) => cast(equal(x, w), 'i64'),
  argmax: of((x) => argmax(x, 1)),
  cast_integers: of((x) => cast(mul(x, 3), 'i64')),
  cast_halves: of((x) => cast(cast(x, 'f16'), 'f32')),
  normalize: of((x) => normalize(x, 1e-5)),
  normalize_rows: of((x) => normalize(x, 1e-6)),
  gemm: ({ x, w }) => gemm(x, w),
  gemm_first_turned: ({ x, w }) => gemm(x, w, { transA: true }),
  gemm_first_turned_wide: ({ x, w }) => gemm(x, w, { transA: true }),
  gemm_second_turned: ({ x, w, b }) => gemm(x, w, { transB: true, c: b }),
  gemm_both_turned: ({ x, w, b }) => gemm(x, w, { transA: true, transB: true, c: b }),
  transposed: ({ x, w }) => transposed(x, w),
  transposed_wide: ({ x, w }) => transposed(x, w),
  accumulate: ({ x, w, b }) => accumulate(x, w, b),
  accumulate_low_rank: ({ x, w, b, q, k }) => {
    const low = matmul(w, swap(q));
    return accumulate(x, reshape(gemm(reshape(low, [6, 2]), k, { transB: true }), [2, 3, 5]), b);
  },
  conv2d_input_grad: ({ x, w }) => convInputGrad(x, w, [2, 3, 5, 6], sized(1)),
  conv2d_input_grad_stride2: ({ x, w }) => convInputGrad(x, w, [2, 3, 7, 8], sized(2)),
  conv2d_weight_grad: ({ x, w }) => convWeightGrad(x, w, [4, 3, 3, 3], sized(1)),
  conv2d_weight_grad_stride2: ({ x, w }) => convWeightGrad(x, w, [4, 3, 3, 3], sized(2)),
  flip_kernel: ({ w }) => flipKernel(w),
};
