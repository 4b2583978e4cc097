/** Multi-head attention as diffusers names it: to_q, to_k, to_v, to_out.0. */

import { attention as attentionOf, reshape, type Tensor, transpose } from '@attune/engine';

import { linear } from './layers.ts';
import type { Scope } from './scope.ts';

export interface AttentionOptions {
  readonly heads: number;
  /** Width of q, k and v. Default: that of x. */
  readonly inner?: number;
  /** Keys and values come from here; default x itself. */
  readonly context?: Tensor;
  readonly qkvBias?: boolean;
  /** Added to what q, k and v see (positions), not to the residual. */
  readonly outBias?: boolean;
}

/** x [N, L, C] (and context [M, S, D], where M divides N) → [N, L, C], residual not included. */
export function attention(
  scope: Scope,
  x: Tensor,
  { heads, inner = x.dim(-1), context = x, qkvBias = false, outBias = true }: AttentionOptions,
): Tensor {
  const q = linear(scope.at('to_q'), x, inner, { bias: qkvBias });
  const of = (name: string): Scope => (context === x ? scope.at(name) : scope.at(name).on());
  const k = linear(of('to_k'), context, inner, { bias: qkvBias });
  const v = linear(of('to_v'), context, inner, { bias: qkvBias });
  const value = scope.site('attention', attend(q, k, v, heads), { q, k, v, heads });
  return linear(scope.at('to_out', 0), value, x.dim(-1), { bias: outBias });
}

/**
 * q [N, L, C] over k and v [M, S, C], M a divisor of N: rows that share a context are folded into
 * the query axis, so that the context is never repeated.
 */
export function attend(q: Tensor, k: Tensor, v: Tensor, heads: number, bias?: Tensor): Tensor {
  const [rows, length, width] = q.shape;
  const shared = rows === k.dim(0) ? q : reshape(q, [k.dim(0), -1, width]);
  const out = attentionOf(
    splitHeads(shared, heads),
    splitHeads(k, heads),
    splitHeads(v, heads),
    bias ? { bias } : {},
  );
  const joined = transpose(out, [0, 2, 1, 3]);
  return reshape(joined, [rows, length, v.dim(-1)]);
}

/** [N, L, C] → [N, heads, L, C / heads]. */
const splitHeads = (x: Tensor, heads: number): Tensor =>
  transpose(reshape(x, [x.dim(0), x.dim(1), heads, -1]), [0, 2, 1, 3]);
