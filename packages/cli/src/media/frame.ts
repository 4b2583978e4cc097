/** A frame in memory, and the arithmetic of frame times. */

import { badArgument } from '@attune/engine';

/** One picture. `data` is RGB, 8 bits each, row-major [height, width, 3]; `delay` is how long a clip shows it, in milliseconds (0: a still). */
export interface Frame {
  readonly data: Uint8Array;
  readonly width: number;
  readonly height: number;
  readonly delay: number;
}

export type Frames = Iterable<Frame> | AsyncIterable<Frame>;

/** Throws BAD_ARGUMENT where a frame's bytes are not height · width · 3, or its size is not of `like`. */
export function checkFrame(where: string, frame: Frame, like: Frame = frame): void {
  const { data, width, height } = frame;
  const size = `${width}×${height}`;
  if (!(Number.isInteger(width) && Number.isInteger(height) && width > 0 && height > 0))
    throw badArgument(where, `a frame of ${size}`, 'give whole, positive sizes');
  if (data.length !== width * height * 3)
    throw badArgument(where, `${data.length} bytes for a ${size} frame`, 'give height · width · 3');
  if (width !== like.width || height !== like.height)
    throw badArgument(
      where,
      `a frame of ${size} after one of ${like.width}×${like.height}`,
      'give frames of one size',
    );
}

/** Frames per second of frames shown for these times (ms); 0 where nothing moves. */
export function fpsOf(delays: readonly number[]): number {
  const total = delays.reduce((sum, delay) => sum + delay, 0);
  return total > 0 ? (1000 * delays.length) / total : 0;
}

/** Delays (ms) from start times (ms) in order; the last frame lasts `last`, or the mean of the others. */
export function delaysOf(starts: readonly number[], last?: number): number[] {
  const steps = starts.slice(1).map((start, i) => start - starts[i]);
  const mean = steps.length > 0 ? (starts[steps.length] - starts[0]) / steps.length : 0;
  const end = last !== undefined && last > 0 ? last : mean > 0 ? mean : 1000 / 25;
  return [...steps, end];
}

/** Delays rounded to multiples of `unit` ms, none below `least`; the rounding error is carried on, so the sum stays. */
export function roundDelays(delays: readonly number[], unit: number, least = unit): number[] {
  let owed = 0;
  return delays.map((delay) => {
    const rounded = Math.max(least, Math.round((delay + owed) / unit) * unit);
    owed += delay - rounded;
    return rounded;
  });
}

/** Throws BAD_ARGUMENT unless `fps` lies in (0, 1000]. */
export function checkFps(where: string, fps: number): void {
  if (!(fps > 0 && fps <= 1000))
    throw badArgument(where, `${fps} frames a second`, 'give a number above 0 and up to 1000');
}

/**
 * The same clip at a constant rate: each tick shows what was on screen at its middle, so times that
 * only jitter (33, 33, 34 ms) keep every frame once; otherwise frames repeat or fall out.
 */
export async function* resample(frames: Frames, fps: number): AsyncGenerator<Frame> {
  checkFps('resample', fps);
  const delay = 1000 / fps;
  let ends = 0;
  let shown = 0;
  let last: Frame | undefined;
  for await (const frame of frames) {
    last = frame;
    ends += frame.delay;
    for (; (shown + 0.5) * delay < ends - 1e-6 * delay; shown++) yield { ...frame, delay };
  }
  if (last && shown === 0) yield { ...last, delay };
}
