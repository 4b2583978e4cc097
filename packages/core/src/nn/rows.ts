/**
 * The leading axis. Rows are (clip, frame): a value has 1, B or B·F of them, and two values meet at
 * the finer of their grains.
 */

import { add, AttuneError, expand, reshape, type Tensor } from '@attune/engine';

/** Clips and frames of a call. */
export interface Rows {
  readonly B: number;
  readonly F: number;
}

/** `x` with `rows` rows; `x` has 1, B or B·F of them and rows are repeated as needed. */
export function lift(x: Tensor, rows: number, { B, F }: Rows): Tensor {
  const own = x.dim(0);
  const rest = x.shape.slice(1);
  if (own === rows) return x;
  if (own === 1) return expand(x, [rows, ...rest]);
  if (own === B && rows === B * F)
    return reshape(expand(reshape(x, [B, 1, ...rest]), [B, F, ...rest]), [rows, ...rest]);
  throw new AttuneError(
    'ROWS',
    `A value of ${own} rows cannot be used at ${rows} rows (clips ${B}, frames ${F}).`,
    { own, rows, B, F },
  );
}

/** Both values with as many rows as the one that has more. */
export function meet(a: Tensor, b: Tensor, rows: Rows): [Tensor, Tensor] {
  if (a.rank === 0 || b.rank === 0) return [a, b];
  const most = Math.max(a.dim(0), b.dim(0));
  return [lift(a, most, rows), lift(b, most, rows)];
}

/** a + b where b may have fewer rows than a: through a [B, F, …] view, nothing is repeated. */
export function addRows(a: Tensor, b: Tensor, { B, F }: Rows): Tensor {
  if (b.dim(0) === B && a.dim(0) === B * F && B > 1 && F > 1) {
    const view = reshape(a, [B, F, ...a.shape.slice(1)]);
    return reshape(add(view, reshape(b, [B, 1, ...b.shape.slice(1)])), a.shape);
  }
  if (b.dim(0) === a.dim(0) || b.dim(0) === 1) return add(a, b);
  return add(lift(a, b.dim(0), { B, F }), b);
}
