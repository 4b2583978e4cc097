/** Modules of LoRA's family, drawn at random, and what they make of a weight, in float64. */

import { f32, type F32Array, type NDArray, type Rng } from '@attune/engine';

import { type Layer, type Numbers, numbers, shapeOf, sizeOf } from './layers.ts';

/** [rows, inner] · [inner, columns]. */
export function product(a: Numbers, b: Numbers, rows: number, inner: number): Numbers {
  const columns = b.length / inner;
  const out = new Float64Array(rows * columns);
  for (let i = 0; i < rows; i++)
    for (let k = 0; k < inner; k++)
      for (let j = 0; j < columns; j++)
        out[i * columns + j] += a[i * inner + k] * b[k * columns + j];
  return out;
}

/** Σ t[m, n, kernel] · a[m, o] · b[n, i] → [o, i, kernel]. */
function tucker(t: Numbers, a: Numbers, b: Numbers, rank: number, out: number): Numbers {
  const into = b.length / rank;
  const area = t.length / (rank * rank);
  const made = new Float64Array(out * into * area);
  for (let m = 0; m < rank; m++)
    for (let n = 0; n < rank; n++)
      for (let o = 0; o < out; o++)
        for (let i = 0; i < into; i++)
          for (let k = 0; k < area; k++)
            made[(o * into + i) * area + k] +=
              t[(m * rank + n) * area + k] * a[m * out + o] * b[n * into + i];
  return made;
}

export interface Made {
  /** Tensors by the leaf that LyCORIS writes. */
  readonly leaves: Record<string, NDArray>;
  /** The weight and the bias that they make. */
  readonly weight: Numbers;
  readonly bias: Numbers;
}

interface Draw {
  readonly rng: Rng;
  readonly layer: Layer;
  readonly weight: Numbers;
  readonly bias: Numbers;
}

/** Random numbers of a shape, as they are stored, and in float64. */
export function drawer(rng: Rng) {
  let at = 0;
  return (...shape: number[]): [F32Array, Numbers] => {
    const array = rng.fork(at++).normals(shape);
    return [array, numbers(array)];
  };
}

/** alpha / rank as files have it: an alpha of its own, none, or the 0 that means none. */
function scaled(leaves: Record<string, NDArray>, rng: Rng, rank: number | undefined): number {
  const kind = rng.int(4);
  if (kind === 0) return 1;
  const alpha = kind === 1 ? 0 : 0.25 + 8 * rng.uniform();
  leaves.alpha = f32([alpha], []);
  return rank === undefined || alpha === 0 ? 1 : Math.fround(alpha) / rank;
}

export const plus = (a: Numbers, b: Numbers, scale: number): Numbers =>
  a.map((v, i) => v + scale * b[i]);

/** W′ = m · V / ‖V‖ over all axes but one. */
export function magnified(
  v: Numbers,
  magnitude: Numbers,
  shape: readonly number[],
  axis: 0 | 1,
): Numbers {
  const area = sizeOf(shape.slice(2));
  const of = (i: number): number =>
    axis === 0 ? Math.floor(i / (shape[1] * area)) : Math.floor(i / area) % shape[1];
  const squares = new Float64Array(shape[axis]);
  v.forEach((value, i) => (squares[of(i)] += value * value));
  return v.map((value, i) => (magnitude[of(i)] * value) / Math.sqrt(squares[of(i)]));
}

/** A module of a random algorithm, its tensors and what they make of the layer. */
export function module({ rng, layer, weight, bias }: Draw): Made {
  const draw = drawer(rng.fork('draw'));
  const leaves: Record<string, NDArray> = {};
  const put = (leaf: string, ...shape: number[]): Numbers => {
    const [array, values] = draw(...shape);
    leaves[leaf] = array;
    return values;
  };
  const shape = shapeOf(layer);
  if (layer.kind === 'norm') {
    const w = put('w_norm', ...shape);
    return { leaves, weight: plus(weight, w, 1), bias: plus(bias, put('b_norm', layer.out), 1) };
  }
  const { out, into, kind } = layer;
  const area = sizeOf(shape.slice(2));
  const kernel = shape.slice(2);
  const ones = kernel.map(() => 1);
  const rank = 1 + rng.int(3);
  const deep = kind === 'conv' && rng.uniform() < 0.5;
  const algorithm = ['lora', 'loha', 'lokr', 'full', 'dora'][rng.int(5)];
  if (algorithm === 'full') {
    const diff = put('diff', ...shape);
    const other = rng.uniform() < 0.5 ? put('diff_b', out) : undefined;
    return { leaves, weight: plus(weight, diff, 1), bias: other ? plus(bias, other, 1) : bias };
  }
  let delta: Numbers;
  let ranked: number | undefined = rank;
  if (algorithm === 'lora' || algorithm === 'dora') {
    const up = put('lora_up.weight', out, rank, ...ones);
    if (deep) {
      const mid = put('lora_mid.weight', rank, rank, ...kernel);
      const down = put('lora_down.weight', rank, into, ...ones);
      const turned = new Float64Array(up.length);
      for (let o = 0; o < out; o++)
        for (let m = 0; m < rank; m++) turned[m * out + o] = up[o * rank + m];
      delta = tucker(mid, turned, down, rank, out);
    } else delta = product(up, put('lora_down.weight', rank, into, ...kernel), out, rank);
  } else if (algorithm === 'loha') {
    const [one, two] = [1, 2].map((i) => {
      if (deep) {
        const t = put(`hada_t${i}`, rank, rank, ...kernel);
        const a = put(`hada_w${i}_a`, rank, out);
        return tucker(t, a, put(`hada_w${i}_b`, rank, into), rank, out);
      }
      return product(
        put(`hada_w${i}_a`, out, rank),
        put(`hada_w${i}_b`, rank, into * area),
        out,
        rank,
      );
    });
    delta = one.map((v, i) => v * two[i]);
  } else {
    const [a, b] = [out % 3 === 0 ? 3 : 2, into % 2 === 0 ? 2 : 3];
    const [c, d] = [out / a, into / b];
    const [fullOne, fullTwo] = [rng.uniform() < 0.5, rng.uniform() < 0.5];
    const one = fullOne
      ? put('lokr_w1', a, b)
      : product(put('lokr_w1_a', a, rank), put('lokr_w1_b', rank, b), a, rank);
    const two = fullTwo
      ? put('lokr_w2', c, d, ...kernel)
      : deep
        ? tucker(
            put('lokr_t2', rank, rank, ...kernel),
            put('lokr_w2_a', rank, c),
            put('lokr_w2_b', rank, d),
            rank,
            c,
          )
        : product(put('lokr_w2_a', c, rank), put('lokr_w2_b', rank, d * area), c, rank);
    if (fullOne && fullTwo) ranked = undefined;
    delta = new Float64Array(weight.length);
    for (let i = 0; i < out; i++)
      for (let j = 0; j < into; j++)
        for (let k = 0; k < area; k++)
          delta[(i * into + j) * area + k] =
            one[Math.floor(i / c) * b + Math.floor(j / d)] *
            two[((i % c) * d + (j % d)) * area + k];
  }
  const changed = plus(weight, delta, scaled(leaves, rng, ranked));
  if (algorithm !== 'dora') return { leaves, weight: changed, bias };
  const axis = rng.uniform() < 0.5 ? 0 : 1;
  const magnitude = put('dora_scale', ...(axis === 0 ? [out, 1, ...ones] : [1, into, ...ones]));
  return { leaves, weight: magnified(changed, magnitude, shape, axis), bias };
}
