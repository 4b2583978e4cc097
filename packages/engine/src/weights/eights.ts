/** 8-bit floats as files hold them. Each is a value of f16, and is read as that. */

import { f32, type NDArray, toHalf } from '../runtime/array.ts';

/** E4M3 has 4 bits of exponent (bias 7), no infinity and one NaN; E5M2 is the upper half of an f16. */
export type Eight = 'F8_E4M3' | 'F8_E5M2';

export const isEight = (dtype: unknown): dtype is Eight =>
  dtype === 'F8_E4M3' || dtype === 'F8_E5M2';

/** Names of what some tools multiply 8-bit floats by; read without it, the numbers would be others. */
export const isScaleOfEights = (name: string): boolean =>
  /(^|\.)(scaled_fp8|scale_(weight|input)|(weight|input)_scale(_inv|_2)?)$/.test(name);

function e4m3(byte: number): number {
  const exponent = (byte >> 3) & 15;
  const fraction = byte & 7;
  const sign = byte & 0x80 ? -1 : 1;
  if (exponent === 15 && fraction === 7) return Number.NaN;
  return sign * (exponent === 0 ? fraction * 2 ** -9 : (1 + fraction / 8) * 2 ** (exponent - 7));
}

/** The f16 words of all bytes, made at first use. */
let words: Uint16Array | undefined;
const wordsOfE4m3 = (): Uint16Array =>
  (words ??= toHalf(
    f32(
      Float32Array.from({ length: 256 }, (_, byte) => e4m3(byte)),
      [256],
    ),
    'f16',
  ).data);

/** The same values as f16, exactly. */
export function fromEights(
  bytes: Uint8Array,
  dtype: Eight,
  shape: readonly number[],
): NDArray<Uint16Array> {
  const table = dtype === 'F8_E4M3' ? wordsOfE4m3() : undefined;
  const data = Uint16Array.from(bytes, (byte) => (table ? table[byte] : byte << 8));
  return { dtype: 'f16', shape, data };
}
