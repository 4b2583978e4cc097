/**
 * What the tensors of one module mean, by algorithm: LoRA and LoCon (Hu et al. 2021, arXiv 2106.09685),
 * LoHa and LoKr (LyCORIS, Yeh et al. 2023, arXiv 2309.14859), and a plain difference. One entry each.
 */

import { type Init, normal, uniform, zeros } from '@attune/core';
import {
  AttuneError,
  matmul,
  mul,
  reshape,
  type Shape,
  type Tensor,
  transpose,
} from '@attune/engine';

/** The tensors of a module by leaf; reading one that is not there throws. */
export type Parts = (leaf: string) => Tensor;

/** Which leaves a module has. */
export type Has = (leaf: string) => boolean;

export interface Algorithm {
  /** The leaves it may have; the first that is there tells it from the others. */
  readonly leaves: readonly string[];
  /** Whether these leaves are enough to act. */
  complete(has: Has): boolean;
  /** The leaf whose first axis is the rank; undefined where nothing is of low rank, and alpha says nothing. */
  ranked(has: Has): string | undefined;
  /** The change of the weight before its scale: [out, …], with the kernel's axes or flattened. */
  delta(part: Parts, has: Has): Tensor;
  /** A module that starts as the identity, for a weight [out, in, …kernel]. */
  fresh(weight: Shape, rank: number): Readonly<Record<string, Fresh>>;
}

export interface Fresh {
  readonly shape: Shape;
  readonly init: Init;
}

/** Leaves that change a layer's bias; PEFT's grows with the module's scale. */
export const biases = ['diff_b', 'lora_B.bias'] as const;

const lora: Algorithm = {
  leaves: ['lora_A.weight', 'lora_B.weight', 'lora_mid.weight', 'lora_B.bias'],
  complete: (has) => has('lora_A.weight') && has('lora_B.weight'),
  ranked: () => 'lora_A.weight',
  delta: (part, has) => {
    const down = has('lora_mid.weight')
      ? tuckerDown(part('lora_mid.weight'), part('lora_A.weight'))
      : part('lora_A.weight');
    const rows = matmul(flat(part('lora_B.weight')), flat(down));
    return reshape(rows, [rows.dim(0), ...down.shape.slice(1)]);
  },
  fresh: ([out, ...into], rank) => ({
    'lora_A.weight': { shape: [rank, ...into], init: uniform(count(into)) },
    'lora_B.weight': { shape: [out, rank, ...into.slice(1).map(() => 1)], init: zeros },
  }),
};

/** The first two factors of a Tucker form as one convolution: Σₙ mid[m, n, …] · down[n, in]. */
export function tuckerDown(mid: Tensor, down: Tensor): Tensor {
  const [m, n, ...kernel] = mid.shape;
  const rows = matmul(
    reshape(transpose(reshape(mid, [m, n, count(kernel)]), [0, 2, 1]), [-1, n]),
    flat(down),
  );
  const into = rows.dim(-1);
  return reshape(transpose(reshape(rows, [m, count(kernel), into]), [0, 2, 1]), [
    m,
    into,
    ...kernel,
  ]);
}

/** A full Tucker form: Σ t[i, j, …] · a[i, out] · b[j, in] → [out, in, …]. */
function tucker(t: Tensor, a: Tensor, b: Tensor): Tensor {
  const inner = tuckerDown(t, b);
  const [, ...into] = inner.shape;
  const rows = matmul(transpose(a, [1, 0]), flat(inner));
  return reshape(rows, [rows.dim(0), ...into]);
}

const loha: Algorithm = {
  leaves: ['hada_w1_a', 'hada_w1_b', 'hada_w2_a', 'hada_w2_b', 'hada_t1', 'hada_t2'],
  complete: (has) =>
    ['hada_w1_a', 'hada_w1_b', 'hada_w2_a', 'hada_w2_b'].every(has) &&
    has('hada_t1') === has('hada_t2'),
  ranked: () => 'hada_w1_b',
  delta: (part, has) => {
    const [one, two] = [1, 2].map((i) => {
      const [a, b] = [part(`hada_w${i}_a`), part(`hada_w${i}_b`)];
      return has(`hada_t${i}`) ? tucker(part(`hada_t${i}`), a, b) : matmul(a, b);
    });
    return mul(one, two);
  },
  fresh: ([out, ...into], rank) => ({
    hada_w1_a: { shape: [out, rank], init: normal(0.1) },
    hada_w1_b: { shape: [rank, count(into)], init: normal(1) },
    hada_w2_a: { shape: [out, rank], init: zeros },
    hada_w2_b: { shape: [rank, count(into)], init: normal(1) },
  }),
};

const lokr: Algorithm = {
  leaves: [
    'lokr_w1',
    'lokr_w1_a',
    'lokr_w1_b',
    'lokr_w2',
    'lokr_w2_a',
    'lokr_w2_b',
    'lokr_t1',
    'lokr_t2',
  ],
  complete: (has) =>
    [1, 2].every((i) => has(`lokr_w${i}`) || (has(`lokr_w${i}_a`) && has(`lokr_w${i}_b`))),
  ranked: (has) => ['lokr_w1_b', 'lokr_w2_b'].find(has),
  delta: (part, has) => {
    const [one, two] = [1, 2].map((i) => {
      if (has(`lokr_w${i}`)) return part(`lokr_w${i}`);
      const [a, b] = [part(`lokr_w${i}_a`), part(`lokr_w${i}_b`)];
      return has(`lokr_t${i}`) ? tucker(part(`lokr_t${i}`), a, b) : matmul(a, b);
    });
    return kron(one, two);
  },
  fresh: ([out, into, ...kernel], rank) => {
    const [[outA, outB], [inA, inB]] = [factors(out), factors(into)];
    const wide = count([inB, ...kernel]);
    return {
      lokr_w1: { shape: [outA, inA], init: uniform(inA) },
      lokr_w2_a: { shape: [outB, rank], init: uniform(rank) },
      lokr_w2_b: { shape: [rank, wide], init: zeros },
    };
  },
};

/** The Kronecker product of [a, b] and [c, d, …] → [a·c, b·d, …]. */
function kron(small: Tensor, large: Tensor): Tensor {
  const [a, b] = flat(small).shape;
  const [c, ...rest] = large.shape;
  const product = mul(reshape(small, [a, 1, b, 1]), reshape(large, [1, c, 1, count(rest)]));
  return reshape(product, [a * c, b * rest[0], ...rest.slice(1)]);
}

/** A width as the product of its two factors that lie nearest to its root, the smaller one first. */
export function factors(width: number): readonly [number, number] {
  let small = Math.floor(Math.sqrt(width));
  while (width % small !== 0) small--;
  return [small, width / small];
}

const full: Algorithm = {
  leaves: ['diff', 'diff_b'],
  complete: (has) => has('diff') || has('diff_b'),
  ranked: () => undefined,
  delta: (part) => part('diff'),
  fresh: (weight) => ({ diff: { shape: weight, init: zeros } }),
};

/** By name; where a module has leaves of two, the first one's count. */
export const algorithms = { lora, loha, lokr, full } satisfies Record<string, Algorithm>;
/**
 * Low-rank matrices (LoRA, LoCon), their Hadamard or Kronecker products (LoHa, LoKr), or a plain difference.
 * DoRA is a magnitude on top of any of them.
 */
export type AlgorithmName = keyof typeof algorithms;

/** The algorithm of a module with these leaves. */
export function algorithmOf(has: Has): AlgorithmName | undefined {
  const names = Object.keys(algorithms) as AlgorithmName[];
  return names.find((name) => algorithms[name].leaves.some(has));
}

/** The change of a weight, in its shape. Throws BAD_MODULE where the module's tensors do not make it. */
export function deltaOf(
  name: AlgorithmName,
  part: Parts,
  has: Has,
  weight: Shape,
  address: string,
): Tensor {
  const delta = algorithms[name].delta(part, has);
  if (delta.dim(0) !== weight[0] || delta.size !== count(weight))
    throw new AttuneError(
      'BAD_MODULE',
      `The ${name} module at ${address} makes a change of shape [${delta.shape}]; the weight is [${weight}].`,
      { address },
    );
  return reshape(delta, weight);
}

const count = (sizes: Shape): number => sizes.reduce((a, b) => a * b, 1);

/** [rows, everything else]. */
const flat = (x: Tensor): Tensor => (x.rank === 2 ? x : reshape(x, [x.dim(0), -1]));
