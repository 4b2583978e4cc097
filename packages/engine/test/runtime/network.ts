/** A small network with everything that makes cutting hard, as a function of its leaves. */

import {
  accumulate,
  add,
  attention,
  concat,
  conv2d,
  cos,
  exp,
  type F32Array,
  f32,
  groupNorm,
  input,
  layerNorm,
  linear,
  mul,
  param,
  reshape,
  Rng,
  type Shape,
  sigmoid,
  silu,
  slice,
  square,
  sum,
  type Tensor,
  toHalf,
  tracePosition,
  transpose,
  Weights,
} from '../../src/index.ts';

const [rows, channels, side, tokens] = [2, 4, 4, 3];

/** Frozen weights. */
const frozenShapes: Readonly<Record<string, Shape>> = {
  'first.weight': [channels, channels, 3, 3],
  'first.bias': [channels],
  'hint.weight': [channels, 3, 3, 3],
  'norm.weight': [channels],
  'norm.bias': [channels],
  'last.weight': [channels, 2 * channels, 1, 1],
};

/** What trains: fed at every run, and read in several segments. */
const liveShapes: Readonly<Record<string, Shape>> = {
  shared: [channels, channels],
  'lora.A': [2, channels],
  'lora.B': [channels, 2],
  keys: [channels, 5],
  'hint.gain': [channels, 1, 1],
};

const clipShapes: Readonly<Record<string, Shape>> = {
  hint: [rows, 3, side, side],
  text: [rows, tokens, 5],
  gate: [],
};

export const sampleShape: Shape = [rows, channels, side, side];

/** Leaves that every call of the network shares. */
export interface Leaves {
  readonly frozen: Readonly<Record<string, Tensor>>;
  readonly live: Readonly<Record<string, Tensor>>;
  readonly clip: Readonly<Record<string, Tensor>>;
}

const each = (
  shapes: Readonly<Record<string, Shape>>,
  make: (name: string, shape: Shape) => Tensor,
): Record<string, Tensor> =>
  Object.fromEntries(Object.entries(shapes).map(([name, shape]) => [name, make(name, shape)]));

export const leaves = (): Leaves => ({
  frozen: each(frozenShapes, (name, shape) => param(name, shape)),
  live: each(liveShapes, (name, shape) => param(name, shape, { live: true })),
  clip: each(clipShapes, (name, shape) => input(name, shape, { rate: 'clip' })),
});

/** Names whose gradients belong to the clip: summed over steps. */
export const clipNames = [...Object.keys(liveShapes), 'hint', 'text'];

/** [n, c, h, w] ↔ [n, h · w, c]. */
const toTokens = (x: Tensor): Tensor => transpose(reshape(x, [x.dim(0), x.dim(1), -1]), [0, 2, 1]);
const toImage = (x: Tensor, shape: Shape): Tensor => reshape(transpose(x, [0, 2, 1]), shape);

export interface Outputs {
  readonly sample: Tensor;
  /** A value in the middle of the network. */
  readonly feature: Tensor;
  /** A value of rate `clip`. */
  readonly hints: Tensor;
}

/** One call. `mark` is told where the graph may be cut. */
export function network(
  { frozen, live, clip }: Leaves,
  x: Tensor,
  t: Tensor,
  mark: () => void = () => {},
): Outputs {
  const time = linear(concat([cos(t), sigmoid(t)], -1), live.shared);
  const h0 = conv2d(x, frozen['first.weight'], frozen['first.bias'], { padding: 1 });
  const h1 = add(silu(h0), reshape(time, [rows, channels, 1, 1]));
  mark();

  // A branch that no step input reaches: it belongs to the clip wherever it is traced.
  const hint = conv2d(clip.hint, frozen['hint.weight'], undefined, { padding: 1 });
  const hints = mul(silu(hint), live['hint.gain']);
  const h2 = add(groupNorm(h1, 2, frozen['norm.weight'], frozen['norm.bias']), hints);
  mark();

  const u = toTokens(h2);
  const q = accumulate(
    linear(u, live.shared),
    linear(linear(u, live['lora.A']), live['lora.B']),
    clip.gate,
  );
  const k = linear(clip.text, live.keys);
  const attended = attention(q, k, square(k));
  mark();

  const v = add(u, layerNorm(attended, frozen['norm.weight'], frozen['norm.bias']));
  const wide = linear(v, live.shared);
  const feature = mul(slice(wide, 2, 0, 2), sigmoid(slice(wide, 2, 2, 4)));
  mark();

  // The first segment's value is read again here, across all the cuts between.
  const h3 = toImage(v, sampleShape);
  const sample = conv2d(concat([h3, mul(h0, exp(mul(hints, -0.5)))], 1), frozen['last.weight']);
  mark();
  return { sample, feature, hints };
}

const rng = Rng.of(11);
const drawn = (shapes: Readonly<Record<string, Shape>>, scale: number) =>
  Object.fromEntries(
    Object.entries(shapes).map(([name, shape]) => {
      const { data } = rng.fork(name).normals(shape);
      return [
        name,
        f32(
          data.map((value) => scale * value),
          shape,
        ),
      ];
    }),
  );

export const weights = Weights.fromArrays({
  ...drawn(frozenShapes, 0.5),
  'hint.weight': toHalf(drawn(frozenShapes, 0.5)['hint.weight'], 'f16'),
});
/** Values of the live parameters and the inputs of rate `clip`. */
export const clipFeeds: Readonly<Record<string, F32Array>> = {
  ...drawn(liveShapes, 0.7),
  ...drawn(clipShapes, 1),
};
export const noise = rng.fork('noise').normals(sampleShape);
export const times = [0, 1, 2].map((j) => rng.fork('t', j).normals([rows, 2]));

export const k = times.length;
/** x ← 0.8 x + 0.4 · sample, on the host or in the graph. */
export const [keep, take] = [0.8, 0.4];

/** Cotangents: of the last x, and at every step of the two other outputs. */
export const cotangents = {
  x: rng.fork('cx').normals(sampleShape),
  feature: times.map((_, j) => rng.fork('cf', j).normals([rows, side * side, 2])),
  hints: times.map((_, j) => rng.fork('ch', j).normals([rows, channels, side, side])),
};

/** All steps as ONE graph, with the score whose gradient the sweeps must find. */
export function unrolled(): { score: Tensor; last: Tensor; wrt: Record<string, Tensor> } {
  const shared = leaves();
  const start = input('x', sampleShape);
  let x = start;
  const terms: Tensor[] = [];
  for (const [j] of times.entries()) {
    const out = network(shared, x, input(`t${j}`, [rows, 2]));
    x = add(mul(x, keep), mul(out.sample, take));
    terms.push(sum(mul(out.feature, input(`cf${j}`, out.feature.shape))));
    terms.push(sum(mul(out.hints, input(`ch${j}`, out.hints.shape))));
  }
  terms.push(sum(mul(x, input('cx', sampleShape))));
  const wrt = { ...shared.live, hint: shared.clip.hint, text: shared.clip.text, x: start };
  return { score: terms.reduce((a, b) => add(a, b)), last: x, wrt };
}

/** One call with its marks. */
export function traced() {
  const marks: number[] = [];
  const outputs = network(leaves(), input('x', sampleShape), input('t', [rows, 2]), () =>
    marks.push(tracePosition()),
  );
  return { outputs: { ...outputs } as Record<string, Tensor>, marks };
}
