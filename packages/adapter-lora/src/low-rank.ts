/** The best matrices of low rank for a change of a weight: a truncated singular value decomposition. */

import { Rng } from '@attune/engine';

/** A dense matrix, row after row. */
export interface Matrix {
  readonly rows: number;
  readonly columns: number;
  readonly data: Float64Array;
}

export interface LowRank {
  /** [rows, r]. */
  readonly up: Matrix;
  /** [r, columns]. */
  readonly down: Matrix;
  /** ‖M − up · down‖ / ‖M‖, Frobenius. */
  readonly error: number;
}

/** More columns than asked for, and rounds of power iteration: what makes the sketch as good as the best. */
const [SPARE, ROUNDS] = [8, 4];

/**
 * M ≈ up · down, each with the roots of the singular values, by randomised subspace iteration (Halko et
 * al. 2011, arXiv 0909.4061, algorithm 4.4). The same bytes for the same matrix.
 */
export function lowRank(m: Matrix, rank: number): LowRank {
  const least = Math.min(m.rows, m.columns);
  const r = Math.min(rank, least);
  const width = Math.min(r + SPARE, least);
  const start = Rng.of(0).normals([m.columns, width]).data;
  let basis = orthonormal(
    product(m, { rows: m.columns, columns: width, data: Float64Array.from(start) }),
  );
  const turned = transposed(m);
  for (let i = 0; i < ROUNDS; i++)
    basis = orthonormal(product(m, orthonormal(product(turned, basis))));
  // M ≈ basis · small, and small's left singular vectors turn the basis into M's.
  const small = product(transposed(basis), m);
  const { values, vectors } = eigen(product(small, transposed(small)));
  const order = Array.from(values, (_, i) => i)
    .toSorted((a, b) => values[b] - values[a])
    .slice(0, r);
  const left = product(basis, picked(vectors, order));
  const right = product(transposed(picked(vectors, order)), small);
  const up = { ...left, data: left.data.slice() };
  const down = { ...right, data: right.data.slice() };
  order.forEach((from, k) => {
    const root = Math.sqrt(Math.sqrt(Math.max(0, values[from])));
    for (let i = 0; i < up.rows; i++) up.data[i * r + k] *= root;
    for (let j = 0; j < down.columns; j++)
      down.data[k * down.columns + j] *= root > 0 ? 1 / root : 0;
  });
  const near = product(up, down);
  let [far, all] = [0, 0];
  m.data.forEach((value, i) => {
    far += (value - near.data[i]) ** 2;
    all += value ** 2;
  });
  return { up, down, error: all === 0 ? 0 : Math.sqrt(far / all) };
}

function product(a: Matrix, b: Matrix): Matrix {
  const data = new Float64Array(a.rows * b.columns);
  for (let i = 0; i < a.rows; i++) {
    const row = data.subarray(i * b.columns, (i + 1) * b.columns);
    for (let k = 0; k < a.columns; k++) {
      const factor = a.data[i * a.columns + k];
      if (factor === 0) continue;
      const other = b.data.subarray(k * b.columns, (k + 1) * b.columns);
      for (let j = 0; j < row.length; j++) row[j] += factor * other[j];
    }
  }
  return { rows: a.rows, columns: b.columns, data };
}

function transposed({ rows, columns, data }: Matrix): Matrix {
  const out = new Float64Array(data.length);
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < columns; j++) out[j * rows + i] = data[i * columns + j];
  return { rows: columns, columns: rows, data: out };
}

function picked({ rows, columns, data }: Matrix, order: readonly number[]): Matrix {
  const out = new Float64Array(rows * order.length);
  for (let i = 0; i < rows; i++)
    order.forEach((from, k) => {
      out[i * order.length + k] = data[i * columns + from];
    });
  return { rows, columns: order.length, data: out };
}

/** Columns made orthonormal, twice for accuracy (Gram–Schmidt); a column that vanishes stays zero. */
function orthonormal(m: Matrix): Matrix {
  const columns = transposed(m).data;
  const at = (k: number): Float64Array => columns.subarray(k * m.rows, (k + 1) * m.rows);
  for (let k = 0; k < m.columns; k++) {
    const own = at(k);
    const before = Math.sqrt(dot(own, own));
    for (let pass = 0; pass < 2; pass++)
      for (let other = 0; other < k; other++) {
        const known = at(other);
        const share = dot(own, known);
        for (let i = 0; i < own.length; i++) own[i] -= share * known[i];
      }
    const length = Math.sqrt(dot(own, own));
    const scale = length > 1e-12 * before ? 1 / length : 0;
    for (let i = 0; i < own.length; i++) own[i] *= scale;
  }
  return transposed({ rows: m.columns, columns: m.rows, data: columns });
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

/** Turns two entries by an angle of cosine c and sine s. */
function turn(x: Float64Array, i: number, j: number, c: number, s: number): void {
  const [p, q] = [x[i], x[j]];
  x[i] = c * p - s * q;
  x[j] = s * p + c * q;
}

/** Eigenvalues and -vectors (as columns) of a symmetric matrix, by Jacobi's rotations. */
function eigen({ rows: n, data }: Matrix): { values: Float64Array; vectors: Matrix } {
  const a = data.slice();
  const v = new Float64Array(n * n);
  for (let i = 0; i < n; i++) v[i * n + i] = 1;
  for (let sweep = 0; sweep < 60; sweep++) {
    let [off, on] = [0, 0];
    for (let i = 0; i < n; i++)
      for (let j = 0; j < n; j++)
        if (i === j) on += a[i * n + i] ** 2;
        else off += a[i * n + j] ** 2;
    if (off <= 1e-28 * on) break;
    for (let p = 0; p < n; p++)
      for (let q = p + 1; q < n; q++) {
        const apq = a[p * n + q];
        if (apq === 0) continue;
        const theta = (a[q * n + q] - a[p * n + p]) / (2 * apq);
        const t = (theta >= 0 ? 1 : -1) / (Math.abs(theta) + Math.hypot(theta, 1));
        const c = 1 / Math.hypot(t, 1);
        const s = t * c;
        for (let k = 0; k < n; k++) turn(a, k * n + p, k * n + q, c, s);
        for (let k = 0; k < n; k++) turn(a, p * n + k, q * n + k, c, s);
        for (let k = 0; k < n; k++) turn(v, k * n + p, k * n + q, c, s);
      }
  }
  return {
    values: Float64Array.from({ length: n }, (_, i) => a[i * n + i]),
    vectors: { rows: n, columns: n, data: v },
  };
}
