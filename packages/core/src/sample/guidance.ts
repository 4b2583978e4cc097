/**
 * Guidance as arithmetic on a net's outputs under several conditions. It is linear, so it is first a
 * table of weights: a branch of weight 0 need not be run, and a cotangent of the guided output goes
 * back through the same weights.
 */

import { AttuneError, badArgument, type F32Array } from '@attune/engine';

/**
 * What a scale s means. `uncond+s*delta`: base + s·(cond − base), 1 is no guidance (Ho & Salimans as
 * diffusers writes it; DMD2, FastGen). `cond+s*delta`: cond + s·(cond − base), 0 is no guidance
 * (threestudio's SDS, Self-Forcing); s there is s + 1 in the first.
 */
export type GuidanceConvention = 'uncond+s*delta' | 'cond+s*delta';

/** One direction: from the output under condition `base` to that under `cond`. */
export interface GuidanceTerm {
  readonly base: string;
  readonly cond: string;
  readonly scale: number;
}

/**
 * How a net's outputs under several conditions become one prediction (classifier-free guidance, Ho &
 * Salimans 2022).
 */
export interface Guidance {
  readonly convention: GuidanceConvention;
  /**
   * In order, each starting where the one before ended: InstructPix2Pix is `none → image`, `image →
   * both`. The first base is the start, the last cond the full condition. Under `uncond+s*delta`
   * terms may also share a base.
   */
  readonly terms: readonly GuidanceTerm[];
  /** Share of the standard deviation put back (Lin et al. 2024, §3.4); 0 leaves it. */
  readonly rescalePhi?: number;
}

/** The full condition, whose output alone is no guidance at all. */
export function fullCondition({ terms }: Guidance): string {
  const last = terms.at(-1);
  if (!last) throw badArgument('guidance', 'no terms', 'name a base and a condition');
  return last.cond;
}

/** The weight of each branch in the guided output; they sum to 1. Branches of weight 0 are left out. */
export function guidanceWeights(guidance: Guidance): Record<string, number> {
  const { convention, terms } = guidance;
  const full = fullCondition(guidance);
  const fromCond = convention === 'cond+s*delta';
  const weights = new Map([[fromCond ? full : terms[0].base, 1]]);
  const add = (name: string, weight: number) =>
    weights.set(name, (weights.get(name) ?? 0) + weight);
  terms.forEach(({ base, cond, scale }, i) => {
    if (!Number.isFinite(scale) || base === cond)
      throw badArgument(
        'guidance',
        `scale ${scale} from "${base}" to "${cond}"`,
        'give a number and two conditions',
      );
    if (fromCond && i > 0 && base !== terms[i - 1].cond)
      throw badArgument(
        'guidance',
        `under cond+s*delta the term "${base}" → "${cond}" does not start at "${terms[i - 1].cond}"`,
        'chain the terms or use uncond+s*delta',
      );
    add(cond, scale);
    add(base, -scale);
  });
  return Object.fromEntries([...weights].filter(([, weight]) => weight !== 0));
}

/** Names of the branches that have to be run. */
export function guidanceBranches(guidance: Guidance): string[] {
  const names = Object.keys(guidanceWeights(guidance));
  const full = fullCondition(guidance);
  return guidance.rescalePhi && !names.includes(full) ? [...names, full] : names;
}

/**
 * The guided output. `outputs` holds one array [rows, …] per branch; a sample is `rowsPerSample` rows
 * (the frames of a clip), which matters to the rescale alone.
 */
export function guide(
  outputs: Readonly<Record<string, F32Array>>,
  guidance: Guidance,
  rowsPerSample = 1,
): F32Array {
  const branches = guidanceBranches(guidance).map((name) => {
    const output = outputs[name];
    if (output) return output;
    throw new AttuneError(
      'MISSING_BRANCH',
      `guidance needs the output under "${name}"; given: ${Object.keys(outputs).join(', ') || 'none'}.`,
      { name },
    );
  });
  const full = outputs[fullCondition(guidance)];
  const odd = branches.find(({ shape }) => shape.join() !== branches[0].shape.join());
  if (odd)
    throw new AttuneError(
      'SHAPE_MISMATCH',
      `guidance: branches of [${branches[0].shape}] and [${odd.shape}].`,
    );
  const weights = Object.values(guidanceWeights(guidance));
  const sum = new Float64Array(branches[0].data.length);
  weights.forEach((weight, b) => {
    const { data } = branches[b];
    for (let i = 0; i < sum.length; i++) sum[i] += weight * data[i];
  });
  const guided: F32Array = { dtype: 'f32', shape: branches[0].shape, data: Float32Array.from(sum) };
  const { rescalePhi: phi = 0 } = guidance;
  return phi === 0 ? guided : rescaleDeviation(guided, full, phi, rowsPerSample);
}

/**
 * Pulls each sample's standard deviation towards that of the conditional output: x·(φ·std(cond)/std(x)
 * + 1 − φ) (Lin et al. 2024, equations 15 and 16).
 */
export function rescaleDeviation(
  guided: F32Array,
  conditional: F32Array,
  phi: number,
  rowsPerSample = 1,
): F32Array {
  const samples = guided.shape[0] / rowsPerSample;
  if (!Number.isInteger(samples) || guided.shape.join() !== conditional.shape.join())
    throw new AttuneError(
      'SHAPE_MISMATCH',
      `rescale: [${guided.shape}] and [${conditional.shape}], ${rowsPerSample} rows a sample.`,
    );
  const size = guided.data.length / samples;
  const data = new Float32Array(guided.data.length);
  for (let from = 0; from < data.length; from += size) {
    const part = guided.data.subarray(from, from + size);
    const wanted = deviation(conditional.data.subarray(from, from + size));
    const own = deviation(part);
    const factor = own === 0 ? 1 : phi * (wanted / own) + (1 - phi);
    for (let i = 0; i < size; i++) data[from + i] = part[i] * factor;
  }
  return { dtype: 'f32', shape: guided.shape, data };
}

function deviation(values: Float32Array): number {
  let sum = 0;
  for (const value of values) sum += value;
  const mean = sum / values.length;
  let squares = 0;
  for (const value of values) squares += (value - mean) ** 2;
  return Math.sqrt(squares / values.length);
}
