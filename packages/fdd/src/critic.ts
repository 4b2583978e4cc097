/**
 * Critics: small heads on a frozen teacher's own features of noised latents. Hinge loss as in the
 * paper (section 3.2), on features as LADD (Sauer et al. 2024) and DMD2 take them.
 */

import {
  conv,
  groupNorm,
  linear,
  makeCall,
  normal,
  type ParamInfo,
  type Params,
  type Rows,
  Scope,
  Trace,
  zeros,
} from '@attune/core';
import {
  add,
  AttuneError,
  attention,
  cast,
  constant,
  type F32Array,
  f32,
  grad,
  greater,
  input,
  leakyRelu,
  mean,
  mul,
  neg,
  type NDArray,
  Program,
  relu,
  reshape,
  type Rng,
  type Runtime,
  type Shape,
  softplus,
  sub,
  type Tensor,
  transpose,
  Weights,
} from '@attune/engine';
import type { z } from 'zod';

import type { CriticConfig } from './config.ts';

type Config = z.infer<typeof CriticConfig>;

export interface CriticTurn {
  readonly loss: number;
  /** Means of the logits, and the share of answers with the right sign. */
  readonly real: number;
  readonly fake: number;
  readonly right: number;
  readonly grads: Readonly<Record<string, Float32Array>>;
}

/** The heads of one teacher over features of given shapes. */
export class Critic {
  readonly #learn: Program;
  readonly #judge: Program;
  readonly #infos: readonly ParamInfo[];
  readonly #features: readonly string[];

  constructor(
    name: string,
    features: ReadonlyMap<string, Shape>,
    rows: Rows,
    config: Config,
    runtime: Runtime,
  ) {
    this.#features = [...features.keys()];
    const trace = new Trace({ live: () => true });
    const root = new Scope(trace, `critic.${name}`, makeCall(rows, {}));
    const logitsOf = (side: string): Tensor[] =>
      [...features].map(([site, shape], i) =>
        head(root.at('heads', i), input(`${side}.${site}`, shape), rows, config),
      );
    const real = logitsOf('real');
    const fake = logitsOf('fake');
    const loss = lossOf(real, fake, config);
    this.#infos = [...trace.params.values()];
    const leaves = this.#infos.map((info) => trace.params.get(info.name)!.tensor);
    const one = constant(f32([1], []));
    const found = grad([loss], [one], leaves);
    const learned: Record<string, Tensor> = { loss };
    found.forEach((g, i) => {
      if (g) learned[`grad.${this.#infos[i].name}`] = g;
    });
    Object.assign(learned, { real: average(real), fake: average(fake) });
    learned.right = rightOf(real, fake, config);
    const weights = Weights.fromArrays({});
    this.#learn = new Program({ outputs: learned, marks: [] }, { runtime, weights });

    // The generator wants D up. The printed form has no gradient where the fake is far rejected.
    const logits = logitsOf('fake');
    const score =
      config.generator === 'printed'
        ? neg(average(logits.map((x) => relu(add(x, 1)))))
        : neg(average(logits));
    const inputs = this.#features.map((site) => inputOf(score, `fake.${site}`));
    const cotangents = grad([score], [one], inputs);
    const judged: Record<string, Tensor> = { score };
    cotangents.forEach((g, i) => {
      if (g) judged[this.#features[i]] = g;
    });
    this.#judge = new Program({ outputs: judged, marks: [] }, { runtime, weights });
  }

  /** First parameters, each from a stream of its own name. */
  initial(rng: Rng): Record<string, Float32Array> {
    return Object.fromEntries(
      this.#infos.map(({ name, shape, init }) => [name, init(rng.fork(name), shape).data]),
    );
  }

  shapeOf(name: string): Shape {
    const info = this.#infos.find((one) => one.name === name);
    if (!info) throw new AttuneError('INTERNAL', `internal: a critic has no parameter ${name}.`);
    return info.shape;
  }

  /** Loss and gradients of the heads on the features of real and generated latents. */
  async learn(params: Params, real: Features, fake: Features): Promise<CriticTurn> {
    const out = await this.#learn.run({
      ...this.#feeds(params),
      ...named('real', real),
      ...named('fake', fake),
    });
    const value = (key: string) => Number(out[key].data[0]);
    return {
      loss: value('loss'),
      real: value('real'),
      fake: value('fake'),
      right: value('right'),
      grads: Object.fromEntries(
        this.#infos.flatMap(({ name }) => {
          const g = out[`grad.${name}`];
          return g ? [[name, (g as F32Array).data]] : [];
        }),
      ),
    };
  }

  /** The generator's score −D and its cotangents on the features of generated latents. */
  async judge(
    params: Params,
    fake: Features,
  ): Promise<{ score: number; cotangents: Record<string, F32Array> }> {
    const out = await this.#judge.run({ ...this.#feeds(params), ...named('fake', fake) });
    const cotangents = Object.fromEntries(
      this.#features.flatMap((site) => (out[site] ? [[site, out[site] as F32Array]] : [])),
    );
    return { score: Number(out.score.data[0]), cotangents };
  }

  #feeds(params: Params): Record<string, NDArray> {
    return Object.fromEntries(
      this.#infos.map(({ name, shape }) => [name, f32(params[name], shape)]),
    );
  }

  async release(): Promise<void> {
    await this.#learn.release();
    await this.#judge.release();
  }
}

/** Values of a teacher's sites, by site. */
export type Features = Readonly<Record<string, NDArray>>;

const named = (side: string, features: Features): Record<string, NDArray> =>
  Object.fromEntries(Object.entries(features).map(([site, value]) => [`${side}.${site}`, value]));

/** One logit per pixel (and frame) of a feature map [B·F, C, H, W]. */
function head(scope: Scope, x: Tensor, rows: Rows, { width, temporal }: Config): Tensor {
  const groups = Math.min(8, width);
  const first = conv(scope.at('conv_in'), x, width, { kernel: 1 });
  let h = leakyRelu(groupNorm(scope.at('norm1'), first, groups, 1e-5), 0.2);
  if (temporal && rows.F > 1) h = add(h, overFrames(scope.at('temporal'), h, rows));
  h = conv(scope.at('conv1'), h, width);
  h = leakyRelu(groupNorm(scope.at('norm2'), h, groups, 1e-5), 0.2);
  return conv(scope.at('conv_out'), h, 1, { kernel: 1, init: normal(0.02) });
}

/** Self-attention over the frames of each pixel; its output starts at zero. */
function overFrames(scope: Scope, x: Tensor, { B, F }: Rows): Tensor {
  const [, c, h, w] = x.shape;
  const tokens = reshape(transpose(reshape(x, [B, F, c, h * w]), [0, 3, 1, 2]), [B * h * w, F, c]);
  const [q, k, v] = ['to_q', 'to_k', 'to_v'].map((name) => linear(scope.at(name), tokens, c));
  const out = linear(scope.at('to_out'), attention(q, k, v), c, { init: zeros });
  return reshape(transpose(reshape(out, [B, h * w, F, c]), [0, 2, 3, 1]), x.shape);
}

type Logits = readonly Tensor[];

/** Each of a minus its partner in b. */
const minus = (a: Logits, b: Logits): Tensor[] => a.map((x, i) => sub(x, b[i]));

/** Mean over all logits of all heads: real is to be positive and fake negative, or real above fake. */
function lossOf(real: Logits, fake: Logits, { loss }: Config): Tensor {
  if (loss === 'relativistic') return average(minus(fake, real).map((x) => softplus(x)));
  const wrong = (x: Tensor) => (loss === 'hinge' ? relu(add(x, 1)) : softplus(x));
  return add(average(real.map((x) => wrong(neg(x)))), average(fake.map((x) => wrong(x))));
}

/** The share of answers with the right sign. */
function rightOf(real: Logits, fake: Logits, { loss }: Config): Tensor {
  if (loss === 'relativistic') return average(minus(real, fake).map(positive));
  const low = fake.map((x) => sub(1, positive(x)));
  return mul(add(average(real.map(positive)), average(low)), 0.5);
}

/** Every logit weighs the same, whatever its head. */
function average(values: Logits): Tensor {
  const total = values.reduce((sum, x) => sum + x.size, 0);
  return values.map((x) => mul(mean(x), x.size / total)).reduce((a, b) => add(a, b));
}

/** 1 where x > 0, else 0. */
const positive = (x: Tensor): Tensor => cast(greater(x, 0), 'f32');

function inputOf(y: Tensor, name: string): Tensor {
  const seen = new Set<Tensor>();
  const stack = [y];
  for (let t = stack.pop(); t; t = stack.pop()) {
    if (seen.has(t)) continue;
    seen.add(t);
    if (t.op.name === 'input' && (t.attrs as { name: string }).name === name) return t;
    stack.push(...t.inputs);
  }
  throw new AttuneError('INTERNAL', `internal: no input ${name} in a critic.`);
}
