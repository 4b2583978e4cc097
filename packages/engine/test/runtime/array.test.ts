/** Concrete arrays: 16-bit floats exactly, bytes in place. */

import { describe, expect, test } from 'vitest';

import {
  bytesOf,
  f32,
  fromBytes,
  i64,
  itemSize,
  type NDArray,
  Rng,
  sizeOf,
  toF32,
  toHalf,
  zeros,
} from '../../src/index.ts';

const patterns = Uint16Array.from({ length: 65536 }, (_, bits) => bits);

/** Exponent bits, fraction bits. */
const formats = { f16: [5, 10], bf16: [8, 7] } as const;
type Half = keyof typeof formats;

/** The value of a 16-bit pattern, by the definition of the format. */
function decode(bits: number, dtype: Half): number {
  const [exponents, fractions] = formats[dtype];
  const sign = bits >> 15 ? -1 : 1;
  const exponent = (bits >> fractions) & (2 ** exponents - 1);
  const fraction = (bits & (2 ** fractions - 1)) / 2 ** fractions;
  const bias = 2 ** (exponents - 1) - 1;
  if (exponent === 2 ** exponents - 1) return fraction ? Number.NaN : sign * Infinity;
  if (exponent === 0) return sign * fraction * 2 ** (1 - bias);
  return sign * (1 + fraction) * 2 ** (exponent - bias);
}

describe.each(['f16', 'bf16'] as const)('%s', (dtype) => {
  const stored: NDArray = { dtype, shape: [65536], data: patterns };
  const decoded = toF32(stored);

  test('decodes all 65536 patterns', () => {
    const wrong = [...patterns].filter(
      (bits) => !Object.is(decoded.data[bits], decode(bits, dtype)),
    );
    expect(wrong).toEqual([]);
  });

  test('encodes them back; not-a-numbers stay so', () => {
    const { data } = toHalf(decoded, dtype);
    const wrong = [...patterns].filter((bits) =>
      Number.isNaN(decoded.data[bits])
        ? !Number.isNaN(decode(data[bits], dtype))
        : data[bits] !== bits,
    );
    expect(wrong).toEqual([]);
  });

  test('rounds to nearest, ties to even, between all neighbours', () => {
    // The first value beyond the largest is where infinity begins.
    const top = patterns.findIndex((bits) => decode(bits, dtype) === Infinity);
    const grid = Array.from({ length: top }, (_, bits) => decode(bits, dtype));
    grid.push(2 ** (2 ** (formats[dtype][0] - 1)));
    const between = (part: number) =>
      grid.slice(0, top).map((low, bits) => low + part * (grid[bits + 1] - low));
    const words = (numbers: number[]) => [...toHalf(f32(numbers, [top]), dtype).data];
    const low = Array.from({ length: top }, (_, bits) => bits);
    const even = low.map((bits) => bits + (bits % 2));
    const middles = between(1 / 2);
    expect(words(middles)).toEqual(even);
    expect(words(middles.map((value) => -value))).toEqual(even.map((bits) => bits | 0x8000));
    expect(words(between(3 / 8))).toEqual(low);
    expect(words(between(5 / 8))).toEqual(low.map((bits) => bits + 1));
  });

  test('keeps signs of zero and infinities, and overflows to them', () => {
    const values = [0, -0, Infinity, -Infinity, 3.4e38, -3.4e38, 1e-45];
    const back = toF32(toHalf(f32(values, [7]), dtype)).data;
    expect(back.slice(0, 4)).toEqual(Float32Array.of(0, -0, Infinity, -Infinity));
    expect(back[6]).toBe(0);
    expect([back[4], back[5]]).toEqual([Infinity, -Infinity]);
  });
});

describe('arrays', () => {
  test('hold as many values as their shape says', () => {
    expect(() => f32([1, 2, 3], [2, 2])).toThrow('An array of shape [2,2] needs 4 values, got 3.');
    expect(sizeOf([])).toBe(1);
    expect(sizeOf([2, 0, 3])).toBe(0);
    const data = Float32Array.of(1, 2);
    expect(f32(data, [2]).data).toBe(data);
  });

  test('of every type become f32', () => {
    const data = { i32: Int32Array, u8: Uint8Array, bool: Uint8Array, f64: Float64Array };
    for (const [dtype, make] of Object.entries(data))
      expect(toF32({ dtype: dtype as NDArray['dtype'], shape: [2], data: make.of(1, 0) })).toEqual(
        f32([1, 0], [2]),
      );
    expect(toF32(i64([-3, 5], [2]))).toEqual(f32([-3, 5], [2]));
    const same = f32([1], [1]);
    expect(toF32(same)).toBe(same);
  });

  test('are read from bytes at any offset, also of a Buffer', () => {
    const source = Rng.of(2).normals([3, 2]);
    for (const offset of [0, 1, 4, 7]) {
      const buffer = Buffer.alloc(offset + 24);
      buffer.set(bytesOf(source), offset);
      expect(fromBytes(buffer.subarray(offset), 'f32', [3, 2])).toEqual(source);
      const plain = new Uint8Array(offset + 24);
      plain.set(bytesOf(source), offset);
      expect(fromBytes(plain.subarray(offset), 'f32', [3, 2])).toEqual(source);
    }
    expect(() => fromBytes(new Uint8Array(8), 'f32', [3])).toThrow(
      'f32 [3] needs 12 bytes, got 8.',
    );
  });

  test('show their bytes in place', () => {
    for (const dtype of Object.keys(itemSize) as NDArray['dtype'][]) {
      const array = zeros([2, 3], dtype);
      expect(bytesOf(array).byteLength).toBe(6 * itemSize[dtype]);
      bytesOf(array).fill(1);
      expect(Number(array.data[5])).not.toBe(0);
      expect(fromBytes(bytesOf(array), dtype, [2, 3])).toEqual(array);
    }
  });
});
