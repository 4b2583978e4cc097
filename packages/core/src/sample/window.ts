/** Sliding windows over a clip of any length. */

import { badArgument } from '@attune/engine';

/** One window over a clip. */
export interface Window<T> {
  readonly frames: readonly T[];
  /** Number of its first frame in the clip. */
  readonly start: number;
  /** How many of its first frames were in the window before. */
  readonly seen: number;
}

/** The size of windows, in frames; `size` is the larger. */
export interface WindowSize {
  /** Frames that a model sees at once. */
  readonly size: number;
  /** Frames that a window shares with the one before, at least. */
  readonly overlap: number;
}

/**
 * Windows of `size` frames in order, holding two windows' worth at a time. The last one reaches back
 * as far as it must to be full; only a clip shorter than a window gives a shorter one.
 */
export async function* windows<T>(
  frames: Iterable<T> | AsyncIterable<T>,
  { size, overlap }: WindowSize,
): AsyncGenerator<Window<T>> {
  if (!(Number.isInteger(size) && Number.isInteger(overlap) && overlap >= 0 && size > overlap))
    throw badArgument(
      'windows',
      `windows of ${size} frames that share ${overlap}`,
      'give whole numbers, the first larger than the second',
    );
  let window: T[] = [];
  let fresh: T[] = [];
  let start = 0;
  const next = (): Window<T> => {
    const whole = [...window, ...fresh];
    const kept = whole.slice(-size);
    start += whole.length - kept.length;
    const seen = kept.length - fresh.length;
    [window, fresh] = [kept, []];
    return { frames: kept, start, seen };
  };
  for await (const frame of frames) {
    fresh.push(frame);
    if (fresh.length === (window.length === 0 ? size : size - overlap)) yield next();
  }
  if (fresh.length > 0) yield next();
}
