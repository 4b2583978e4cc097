/**
 * Counter-based randomness: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3").
 * A stream is a key; forking by a label makes an independent stream, so a draw depends only on
 * (seed, labels, position), never on what was drawn elsewhere.
 */

import { type F32Array, sizeOf } from './array.ts';

/** A stream of random numbers. `fork` does not advance it; every draw does. */
export class Rng {
  readonly #key0: number;
  readonly #key1: number;
  #counter = 0;
  #left = 0;
  readonly #words = new Uint32Array(4);
  #spare = Number.NaN;

  private constructor(key0: number, key1: number) {
    this.#key0 = key0;
    this.#key1 = key1;
  }

  /** The root stream of an integer seed in [0, 2^53). */
  static of(seed: number): Rng {
    if (!Number.isSafeInteger(seed) || seed < 0)
      throw new RangeError(`A seed is an integer in [0, 2^53), got ${seed}.`);
    return new Rng(seed >>> 0, Math.floor(seed / 2 ** 32));
  }

  /** An independent stream; equal labels give equal streams. */
  fork(...labels: readonly (string | number)[]): Rng {
    const out = new Uint32Array(4);
    let key0 = this.#key0;
    let key1 = this.#key1;
    for (const label of labels) {
      const [low, high] = hash(String(label));
      philox(key0, key1, low, high, 0x666f726b, typeof label === 'number' ? 1 : 0, out);
      key0 = out[0]!;
      key1 = out[1]!;
    }
    return new Rng(key0, key1);
  }

  /** 32 uniform bits. */
  bits(): number {
    if (this.#left === 0) {
      const counter = this.#counter++;
      philox(
        this.#key0,
        this.#key1,
        counter >>> 0,
        Math.floor(counter / 2 ** 32),
        0,
        0,
        this.#words,
      );
      this.#left = 4;
    }
    return this.#words[4 - this.#left--];
  }

  /** Uniform in [0, 1), 32 bits of resolution. */
  uniform(): number {
    return this.bits() * 2 ** -32;
  }

  /** Uniform integer in [0, n); n ≤ 2^32. */
  int(n: number): number {
    if (!(n >= 1)) throw new RangeError(`int(n) needs n ≥ 1, got ${n}.`);
    return Math.floor(this.uniform() * n);
  }

  /** A uniformly drawn element. */
  pick<T>(items: readonly T[]): T {
    return items[this.int(items.length)];
  }

  /** Standard normal (Box–Muller, both values used). */
  normal(): number {
    if (!Number.isNaN(this.#spare)) {
      const value = this.#spare;
      this.#spare = Number.NaN;
      return value;
    }
    const radius = Math.sqrt(-2 * Math.log((this.bits() + 1) * 2 ** -32));
    const angle = 2 * Math.PI * this.uniform();
    this.#spare = radius * Math.sin(angle);
    return radius * Math.cos(angle);
  }

  /** An array of independent standard normals. */
  normals(shape: readonly number[]): F32Array {
    const data = new Float32Array(sizeOf(shape));
    for (let i = 0; i < data.length; i++) data[i] = this.normal();
    return { dtype: 'f32', shape, data };
  }

  /** A uniformly drawn permutation of 0..n-1. */
  permutation(n: number): number[] {
    const order = Array.from({ length: n }, (_, i) => i);
    for (let i = n - 1; i > 0; i--) {
      const j = this.int(i + 1);
      [order[i], order[j]] = [order[j], order[i]];
    }
    return order;
  }
}

/** Ten Philox rounds of the counter (c0..c3) under the key (k0, k1). */
export function philox(
  k0: number,
  k1: number,
  c0: number,
  c1: number,
  c2: number,
  c3: number,
  out: Uint32Array,
): void {
  for (let round = 0; round < 10; round++) {
    const high0 = mulHigh(0xd2511f53, c0);
    const low0 = Math.imul(0xd2511f53, c0) >>> 0;
    const high1 = mulHigh(0xcd9e8d57, c2);
    const low1 = Math.imul(0xcd9e8d57, c2) >>> 0;
    c0 = (high1 ^ c1 ^ k0) >>> 0;
    c1 = low1;
    c2 = (high0 ^ c3 ^ k1) >>> 0;
    c3 = low0;
    k0 = (k0 + 0x9e3779b9) >>> 0;
    k1 = (k1 + 0xbb67ae85) >>> 0;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

/** High 32 bits of a 32 × 32-bit product. */
function mulHigh(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const carry = (middle & 0xffff) + aLow * bHigh;
  return (aHigh * bHigh + Math.floor(middle / 65536) + Math.floor(carry / 65536)) >>> 0;
}

/** 64-bit label hash: two FNV-1a passes with different offsets. */
function hash(label: string): [number, number] {
  let low = 0x811c9dc5;
  let high = 0x9747b28c;
  for (let i = 0; i < label.length; i++) {
    const unit = label.charCodeAt(i);
    low = Math.imul(low ^ unit, 0x01000193) >>> 0;
    high = Math.imul(high ^ (unit + 0x55), 0x01000193) >>> 0;
  }
  return [low, high];
}
