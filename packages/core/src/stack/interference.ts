/** How the adapters of a stack get into each other's way: what each still does beside the others, and where they overlap. */

import type { Runtime } from '@attune/engine';

import type { Model } from '../models/model.ts';
import { blockOf, change, type Outcome, Trial, type Values } from './trial.ts';

/** Two adapters' changes of one block's values; there is none where one of them changes nothing. */
export interface Overlap {
  readonly block: string;
  readonly pair: readonly [string, string];
  /**
   * How far they lie in the same directions of channel space, 0 … 1: the mean of cos² over the principal angles
   * between them, weighted by the energy along each direction; 1 for equal directions of equal energy.
   */
  readonly overlap: number;
  /** Their cosine, −1 … 1: below 0 one undoes the other, above they add up. */
  readonly cosine: number;
}

/** A stack under one condition. */
export interface Interplay {
  /** The change of the outputs when an adapter is left out, by name. */
  readonly leftOut: Readonly<Record<string, number>>;
  readonly overlaps: readonly Overlap[];
}

/**
 * How the adapters of a stack get on. Changes are relative: the norm of the difference over the norm of the
 * outputs.
 */
export interface Interference {
  readonly adapters: readonly string[];
  /** Those that were compared, in the order of the net. */
  readonly blocks: readonly string[];
  /** The change of the outputs that an adapter makes alone on the backbone, by name. */
  readonly alone: Readonly<Record<string, number>>;
  /** The adapter that aligns the others. */
  readonly align?: string;
  /** Without the aligning adapter, if there is one. */
  readonly before: Interplay;
  readonly after?: Interplay;
}

/** Values that all adapters of a UNet may change, whatever their kind: what its blocks hand on. */
const handedOn = (site: string): boolean => /^(hidden|mid):unet\./.test(site);

/**
 * Measures a stack on a fixed small input. `align` names the adapter that was trained to align the others.
 * An adapter's change of a value is the value with the whole stack less that without the adapter.
 */
export async function interference(
  model: Model,
  runtime: Runtime,
  align?: string,
): Promise<Interference> {
  const all = model.adapters.map(({ name }) => name);
  const adapters = all.filter((name) => name !== align);
  const trial = new Trial(model, runtime, handedOn);
  const without = (...names: readonly string[]) => trial.run(new Set(names));
  const interplay = async (off: readonly string[]): Promise<Interplay> => {
    const whole = await without(...off);
    const left = new Map<string, Outcome>();
    for (const name of adapters) left.set(name, await without(...off, name));
    return {
      leftOut: Object.fromEntries(
        [...left].map(([name, { outputs }]) => [name, change(whole.outputs, outputs)]),
      ),
      overlaps: pairsOf(adapters).flatMap((pair) =>
        overlapsOf(pair, whole.sites, left.get(pair[0])!.sites, left.get(pair[1])!.sites),
      ),
    };
  };
  try {
    const bare = await without(...all);
    const alone: Record<string, number> = {};
    for (const name of adapters) {
      const { outputs } = await without(...all.filter((other) => other !== name));
      alone[name] = change(outputs, bare.outputs);
    }
    const blocks = [...new Set(Object.keys(bare.sites).map(blockOf))];
    const before = await interplay(align === undefined ? [] : [align]);
    if (align === undefined) return { adapters, blocks, alone, before };
    return { adapters, blocks, alone, align, before, after: await interplay([]) };
  } finally {
    await trial.release();
  }
}

const pairsOf = (names: readonly string[]): (readonly [string, string])[] =>
  names.flatMap((a, i) => names.slice(i + 1).map((b) => [a, b] as const));

/** Sums over the sites of a block. */
interface Sums {
  /** ‖A Bᵀ‖², ‖A Aᵀ‖², ‖B Bᵀ‖² of the changes as rows of channels. */
  ab: number;
  aa: number;
  bb: number;
  /** A · B, A · A, B · B of the changes as vectors. */
  dot: number;
  a: number;
  b: number;
}

function overlapsOf(
  pair: readonly [string, string],
  whole: Values,
  withoutA: Values,
  withoutB: Values,
): Overlap[] {
  const blocks = new Map<string, Sums>();
  for (const [site, { shape, data }] of Object.entries(whole)) {
    const [a, b] = [withoutA, withoutB].map((left) => rowsOf(data, left[site].data, shape));
    const sums = blocks.get(blockOf(site)) ?? { ab: 0, aa: 0, bb: 0, dot: 0, a: 0, b: 0 };
    blocks.set(blockOf(site), sums);
    const channels = shape[1];
    const [ca, cb] = [covariance(a, channels), covariance(b, channels)];
    sums.ab += dot(ca, cb);
    sums.aa += dot(ca, ca);
    sums.bb += dot(cb, cb);
    sums.dot += dot(a, b);
    sums.a += dot(a, a);
    sums.b += dot(b, b);
  }
  return [...blocks].flatMap(([block, { ab, aa, bb, dot: both, a, b }]) =>
    a === 0 || b === 0
      ? []
      : [{ block, pair, overlap: ab / Math.sqrt(aa * bb), cosine: both / Math.sqrt(a * b) }],
  );
}

/** The difference of two values [N, C, H, W] as rows [N·H·W, C]. */
function rowsOf(whole: Float32Array, left: Float32Array, shape: readonly number[]): Float64Array {
  const [N, C, H, W] = shape;
  const size = H * W;
  const rows = new Float64Array(whole.length);
  for (let n = 0; n < N; n++)
    for (let c = 0; c < C; c++)
      for (let i = 0; i < size; i++) {
        const at = (n * C + c) * size + i;
        rows[(n * size + i) * C + c] = whole[at] - left[at];
      }
  return rows;
}

/** RᵀR [C, C] of rows [n, C]: tr(AᵀA · BᵀB) = ‖A Bᵀ‖². */
function covariance(rows: Float64Array, channels: number): Float64Array {
  const sums = new Float64Array(channels * channels);
  for (let from = 0; from < rows.length; from += channels)
    for (let i = 0; i < channels; i++) {
      const x = rows[from + i];
      if (x === 0) continue;
      const at = i * channels;
      for (let j = 0; j < channels; j++) sums[at + j] += x * rows[from + j];
    }
  return sums;
}

function dot(a: Float64Array, b: Float64Array): number {
  let total = 0;
  for (let i = 0; i < a.length; i++) total += a[i] * b[i];
  return total;
}
