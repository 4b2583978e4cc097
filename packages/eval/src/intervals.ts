/** How sure a difference is: paired bootstrap over clips nested in seeds. */

import { AttuneError, type Rng } from '@attune/engine';

/** A mean and how sure it is, in the unit of the values. */
export interface Interval {
  /** Mean over clips, then over seeds. */
  readonly mean: number;
  readonly low: number;
  readonly high: number;
  /** Clips that counted, over all seeds. */
  readonly count: number;
}

/** Defaults: level 0.95, 2000 resamples. */
export interface BootstrapOptions {
  /** Share of resamples inside. */
  readonly level?: number;
  readonly resamples?: number;
}

const meanOf = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length;

/**
 * Percentile interval of a mean over clips nested in seeds, `values[seed][clip]`: seeds are drawn with
 * replacement, then clips within each (Davison & Hinkley 1997, §3.8). NaN marks a clip the metric says
 * nothing about. With one seed it speaks of that seed alone.
 */
export function bootstrapMean(
  values: readonly (readonly number[])[],
  rng: Rng,
  { level = 0.95, resamples = 2000 }: BootstrapOptions = {},
): Interval {
  const seeds = values
    .map((clips) => clips.filter((value) => !Number.isNaN(value)))
    .filter((clips) => clips.length > 0);
  if (seeds.length === 0)
    throw new AttuneError('METRIC_EMPTY', 'bootstrapMean: no clip has a value.');
  const means = Float64Array.from({ length: resamples }, () =>
    meanOf(
      seeds.map(() => {
        const clips = rng.pick(seeds);
        let sum = 0;
        for (let i = 0; i < clips.length; i++) sum += rng.pick(clips);
        return sum / clips.length;
      }),
    ),
  ).toSorted();
  const tail = (1 - level) / 2;
  return {
    mean: meanOf(seeds.map(meanOf)),
    low: quantile(means, tail),
    high: quantile(means, 1 - tail),
    count: seeds.reduce((sum, clips) => sum + clips.length, 0),
  };
}

/** The interval of a − b, clip by clip: both saw the same clips with the same seeds. */
export function pairedDifference(
  a: readonly (readonly number[])[],
  b: readonly (readonly number[])[],
  rng: Rng,
  options: BootstrapOptions = {},
): Interval {
  const unlike = a.length !== b.length || a.some((clips, s) => clips.length !== b[s].length);
  if (unlike)
    throw new AttuneError('METRIC_SHAPE', 'pairedDifference: both need the same seeds and clips.');
  return bootstrapMean(
    a.map((clips, s) => clips.map((value, i) => value - b[s][i])),
    rng,
    options,
  );
}

/** Whether an interval lies wholly on one side of a bound. */
export const excludes = ({ low, high }: Interval, bound = 0): boolean =>
  low > bound || high < bound;

/** The q-quantile of ascending values, between neighbours by their distance. */
function quantile(sorted: Float64Array, q: number): number {
  const at = q * (sorted.length - 1);
  const below = Math.floor(at);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (at - below) * (sorted[above] - sorted[below]);
}
