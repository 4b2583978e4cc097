/** Tensors from files, checked before use, and clips as rows. */

import {
  AttuneError,
  type DType,
  type F32Array,
  i64,
  type NDArray,
  openSafetensors,
  sameShape,
  type Shape,
  toF32,
} from '@attune/engine';

export type Tensors = Readonly<Record<string, NDArray>>;

/** All tensors of a file as f32 or i64; NaN and infinity are refused. */
export function readTensors(path: string): Record<string, NDArray> {
  const file = openSafetensors(path);
  return Object.fromEntries(
    [...file.tensors.keys()].map((name) => {
      const raw = file.read(name);
      const whole = raw.dtype === 'i64' || raw.dtype === 'i32' || raw.dtype === 'u8';
      const value = whole ? i64([...(raw.data as Int32Array)].map(Number), raw.shape) : toF32(raw);
      refuseNonFinite(value, `${path}: ${name}`);
      return [name, value];
    }),
  );
}

export function refuseNonFinite({ data }: NDArray, what: string): void {
  if (data instanceof BigInt64Array) return;
  const at = (data as Float32Array).findIndex((value) => !Number.isFinite(value));
  if (at < 0) return;
  throw new AttuneError(
    'NOT_FINITE',
    `${what} holds ${data[at]} (entry ${at}): only finite numbers are of use.`,
    { what, at },
  );
}

/** An array in the type an input wants. */
export function asType(array: NDArray, dtype: DType, name: string): NDArray {
  if (dtype === 'f32') return toF32(array);
  if (array.dtype === dtype) return array;
  throw new AttuneError('INPUT_TYPE', `${name} is ${array.dtype}; it has to be ${dtype}.`, {
    name,
  });
}

export function expectShape(name: string, { shape }: NDArray, want: Shape): void {
  if (sameShape(shape, want)) return;
  throw new AttuneError('INPUT_SHAPE', `${name} is [${shape}]; it has to be [${want}].`, {
    name,
    got: shape,
    want,
  });
}

/** A clip [B, C, F, H, W] as rows [B·F, C, H, W]; anything else as it is. */
export function asRows(array: NDArray): NDArray {
  if (array.shape.length !== 5) return array;
  const [B, C, F, H, W] = array.shape;
  return permuted(array as F32Array, [B * F, C, H, W], [B, C, F, H * W]);
}

/** Rows [B·F, C, H, W] as a clip. */
export function asClip(array: NDArray, F: number): NDArray {
  const [rows, C, H, W] = array.shape;
  const B = rows / F;
  return permuted(array as F32Array, [B, C, F, H, W], [B, F, C, H * W]);
}

/** Swaps the middle axes of [b, m, n, size]. */
function permuted(
  { data: source }: F32Array,
  shape: Shape,
  [b, m, n, size]: readonly number[],
): F32Array {
  const data = new Float32Array(source.length);
  for (let i = 0; i < b; i++)
    for (let j = 0; j < m; j++)
      for (let k = 0; k < n; k++) {
        const from = ((i * m + j) * n + k) * size;
        data.set(source.subarray(from, from + size), ((i * n + k) * m + j) * size);
      }
  return { dtype: 'f32', shape, data };
}
