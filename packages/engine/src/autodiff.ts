/** Reverse-mode differentiation: one sweep that distrusts the rules it calls. */

import { AttuneError, badArgument } from './errors.ts';
import { sameShape } from './graph/shape.ts';
import { ancestors, Tensor } from './graph/tensor.ts';
import { accumulate } from './ops/matmul.ts';

/**
 * Cotangents of `xs` given cotangents of `ys`: for each x, Σ_y (∂y/∂x)ᵀ · cotangent(y), shaped like
 * x; null where no y depends on x. The walk never goes behind an x.
 */
export function grad(
  ys: readonly Tensor[],
  cotangents: readonly Tensor[],
  xs: readonly Tensor[],
): (Tensor | null)[] {
  if (ys.length !== cotangents.length)
    throw badArgument(
      'grad',
      `${ys.length} values and ${cotangents.length} cotangents`,
      'give one each',
    );
  const targets = new Set(xs);
  const leads = new Set<Tensor>(xs); // tensors on a path from some x
  const order = ancestors(ys, targets);
  for (const t of order) if (t.inputs.some((x) => leads.has(x))) leads.add(t);

  const bar = new Map<Tensor, Tensor>();
  const pour = (t: Tensor, dt: Tensor) => {
    const seen = bar.get(t);
    bar.set(t, seen ? accumulate(seen, dt) : dt);
  };
  ys.forEach((y, i) => {
    if (leads.has(y)) pour(y, checked(y, cotangents[i], 'the given cotangent'));
  });
  for (const t of order.toReversed()) {
    const dy = bar.get(t);
    if (!dy || targets.has(t)) continue;
    if (t.op.vjp === null)
      throw new AttuneError('NOT_DIFFERENTIABLE', `${t.op.name} [${t.shape}] has no derivative.`, {
        op: t.op.name,
      });
    const dxs = t.op.vjp(dy, t.inputs, t);
    t.inputs.forEach((x, i) => {
      const dx = dxs[i];
      if (dx && leads.has(x)) pour(x, checked(x, dx, `${t.op.name}.vjp, input ${i}`));
    });
  }
  return xs.map((x) => bar.get(x) ?? null);
}

function checked(x: Tensor, dx: Tensor, who: string): Tensor {
  if (sameShape(x.shape, dx.shape) && dx.dtype === 'f32') return dx;
  throw new AttuneError(
    'BAD_GRADIENT',
    `internal: ${who} gave a cotangent ${dx.dtype} [${dx.shape}] for a value [${x.shape}].`,
    { got: dx.shape, want: x.shape },
  );
}
