/** Concrete arrays: what goes into a program and comes out of it. */

import { AttuneError } from '../errors.ts';

/** Element types. f16 and bf16 are storage formats, kept as raw 16-bit words; arithmetic is f32. */
export type DType = 'f32' | 'f16' | 'bf16' | 'f64' | 'i64' | 'i32' | 'u8' | 'bool';

/**
 * The memory behind an array, by its `dtype`: f32 Float32Array, f16 and bf16 Uint16Array, f64 Float64Array,
 * i64 BigInt64Array, i32 Int32Array, u8 and bool Uint8Array.
 */
export type TypedArray =
  | Float32Array
  | Uint16Array
  | Float64Array
  | BigInt64Array
  | Int32Array
  | Uint8Array;

/** A dense row-major array. `data.length` is the product of `shape`. */
export interface NDArray<T extends TypedArray = TypedArray> {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly data: T;
}

/** An f32 array, the type of all activations and gradients. */
export type F32Array = NDArray<Float32Array>;

/** Bytes of one value. */
export const itemSize: Readonly<Record<DType, number>> = {
  f32: 4,
  f16: 2,
  bf16: 2,
  f64: 8,
  i64: 8,
  i32: 4,
  u8: 1,
  bool: 1,
};

/** Types that carry gradients; the gradients themselves are f32. */
export const isFloat = (dtype: DType): boolean =>
  dtype === 'f32' || dtype === 'f16' || dtype === 'bf16' || dtype === 'f64';

const arrayTypes = {
  f32: Float32Array,
  f16: Uint16Array,
  bf16: Uint16Array,
  f64: Float64Array,
  i64: BigInt64Array,
  i32: Int32Array,
  u8: Uint8Array,
  bool: Uint8Array,
} as const;

/** Product of a shape's entries; 1 for a scalar. */
export function sizeOf(shape: readonly number[]): number {
  let size = 1;
  for (const dim of shape) size *= dim;
  return size;
}

/** An f32 array over `data` (not copied). Throws when the sizes differ. */
export function f32(data: Float32Array | readonly number[], shape: readonly number[]): F32Array {
  const values = data instanceof Float32Array ? data : Float32Array.from(data);
  if (values.length !== sizeOf(shape))
    throw new AttuneError(
      'SHAPE_MISMATCH',
      `An array of shape [${shape}] needs ${sizeOf(shape)} values, got ${values.length}.`,
      { shape, length: values.length },
    );
  return { dtype: 'f32', shape, data: values };
}

/** An i64 array from ordinary numbers. */
export function i64(data: readonly number[], shape: readonly number[]): NDArray<BigInt64Array> {
  return { dtype: 'i64', shape, data: BigInt64Array.from(data, (value) => BigInt(value)) };
}

/** An array of zeros, f32 unless told otherwise. */
export function zeros(shape: readonly number[], dtype: DType = 'f32'): NDArray {
  return { dtype, shape, data: new arrayTypes[dtype](sizeOf(shape)) };
}

/** The bytes behind an array, in place. */
export function bytesOf(array: NDArray): Uint8Array {
  const { buffer, byteOffset, byteLength } = array.data;
  return new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);
}

/** An array over raw little-endian bytes; copies only where the offset is not a multiple of the item size. */
export function fromBytes(bytes: Uint8Array, dtype: DType, shape: readonly number[]): NDArray {
  const aligned = bytes.byteOffset % itemSize[dtype] === 0 ? bytes : new Uint8Array(bytes);
  const data = new arrayTypes[dtype](
    aligned.buffer as ArrayBuffer,
    aligned.byteOffset,
    aligned.byteLength / itemSize[dtype],
  );
  if (data.length !== sizeOf(shape))
    throw new AttuneError(
      'SHAPE_MISMATCH',
      `${dtype} [${shape}] needs ${sizeOf(shape) * itemSize[dtype]} bytes, got ${bytes.byteLength}.`,
    );
  return { dtype, shape, data };
}

/** The value of every finite or infinite 16-bit pattern, made at first use: decoding is a table look-up. */
const tables: Partial<Record<'f16' | 'bf16', Float32Array>> = {};

function halfTable(dtype: 'f16' | 'bf16'): Float32Array {
  return (tables[dtype] ??= Float32Array.from({ length: 65536 }, (_, bits) => {
    if (dtype === 'bf16') return new Float32Array(Uint32Array.of(bits << 16).buffer)[0];
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }));
}

/** Any float or integer array as f32 (a copy unless it is f32 already). */
export function toF32(array: NDArray): F32Array {
  const { dtype, shape, data } = array;
  if (dtype === 'f32') return array as F32Array;
  if (dtype === 'f16' || dtype === 'bf16') {
    const table = halfTable(dtype);
    const words = data as Uint16Array;
    const out = new Float32Array(words.length);
    for (let i = 0; i < words.length; i++) out[i] = table[words[i]]!;
    return { dtype: 'f32', shape, data: out };
  }
  if (data instanceof BigInt64Array)
    return { dtype: 'f32', shape, data: Float32Array.from(data, Number) };
  return { dtype: 'f32', shape, data: Float32Array.from(data as Float64Array) };
}

/** f32 values as 16-bit words, rounded to nearest even; overflow becomes infinity. */
export function toHalf(array: F32Array, dtype: 'f16' | 'bf16'): NDArray<Uint16Array> {
  const bits = new Uint32Array(array.data.buffer, array.data.byteOffset, array.data.length);
  const round = dtype === 'bf16' ? bf16Word : f16Word;
  return { dtype, shape: array.shape, data: Uint16Array.from(bits, round) };
}

function bf16Word(bits: number): number {
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

function f16Word(bits: number): number {
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;
  if (magnitude >= 0x47800000) return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    // Subnormal: count steps of 2^-24, ties to even.
    const steps = new Float32Array(Uint32Array.of(magnitude).buffer)[0] * 2 ** 24;
    const low = Math.floor(steps);
    const up = steps - low > 0.5 || (steps - low === 0.5 && low % 2 === 1);
    return sign | (low + (up ? 1 : 0));
  }
  const shifted = magnitude - 0x38000000;
  return sign | ((shifted + 0xfff + ((shifted >>> 13) & 1)) >>> 13);
}

/** Whether an array is zero throughout, and whether it is finite, from its bits. */
export function scan({ dtype, data }: NDArray): { zero: boolean; finite: boolean } {
  if (dtype === 'f16' || dtype === 'bf16') {
    const exponent = dtype === 'f16' ? 0x7c00 : 0x7f80;
    let any = 0;
    let finite = true;
    for (const word of data as Uint16Array) {
      any |= word & 0x7fff;
      if ((word & exponent) === exponent) finite = false;
    }
    return { zero: any === 0, finite };
  }
  if (data instanceof BigInt64Array) return { zero: data.every((n) => n === 0n), finite: true };
  let zero = true;
  let finite = true;
  for (const value of data as Float32Array) {
    if (value !== 0) zero = false;
    if (!Number.isFinite(value)) finite = false;
  }
  return { zero, finite };
}
