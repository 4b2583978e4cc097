/** Between frames and a model's tensors: cover, centre-crop, [0, 1] and back. */

import { AttuneError, badArgument, type F32Array } from '@attune/engine';

import { checkFrame, type Frame } from './frame.ts';
import { through } from './picture.ts';

/**
 * Scales a frame until it covers `width` × `height`, then crops the centre. Reducing averages
 * (Lanczos after box shrinking); a frame of the right size is returned as it is.
 */
export async function fitFrame(frame: Frame, width: number, height: number): Promise<Frame> {
  checkFrame('fitFrame', frame);
  if (!(Number.isInteger(width) && Number.isInteger(height) && width > 0 && height > 0))
    throw badArgument('fitFrame', `a size of ${width}×${height}`, 'give whole, positive sizes');
  if (frame.width === width && frame.height === height) return frame;
  return through(frame, (image) =>
    image.resize(width, height, { fit: 'cover', position: 'centre', kernel: 'lanczos3' }),
  );
}

/** Frames of any size → float32 [F, 3, height, width] in [0, 1]. */
export async function fitFrames(
  frames: readonly Frame[],
  width: number,
  height: number,
): Promise<Float32Array> {
  const plane = width * height;
  const values = new Float32Array(frames.length * 3 * plane);
  let at = 0;
  for (const frame of frames) {
    const { data } = await fitFrame(frame, width, height);
    for (let channel = 0; channel < 3; channel++)
      for (let i = channel; i < data.length; i += 3) values[at++] = data[i] / 255;
  }
  return values;
}

/** Pictures [N · F, 3, H, W] in about [0, 1] as N columns of F frames. */
export function columnsOf({ data, shape: [, , H, W] }: F32Array, count: number): Frame[][] {
  const size = data.length / count;
  return Array.from({ length: count }, (_, i) =>
    toFrames(data.subarray(i * size, (i + 1) * size), W, H),
  );
}

/**
 * Float32 [F, 3, height, width] → frames, clamped to [0, 1] and rounded. `delays` (ms) are theirs in
 * order; a single number serves all (0: stills). Throws NOT_FINITE where a value is NaN or infinite.
 */
export function toFrames(
  values: Float32Array,
  width: number,
  height: number,
  delays: number | readonly number[] = 0,
): Frame[] {
  const plane = width * height;
  const count = values.length / (3 * plane);
  if (!Number.isInteger(count))
    throw badArgument('toFrames', `${values.length} values`, `give F · 3 · ${height} · ${width}`);
  if (typeof delays !== 'number' && delays.length !== count)
    throw badArgument('toFrames', `${delays.length} delays for ${count} frames`, 'give one each');
  return Array.from({ length: count }, (_, frame) => {
    const data = new Uint8Array(3 * plane);
    let at = frame * 3 * plane;
    for (let channel = 0; channel < 3; channel++)
      for (let o = channel; o < data.length; o += 3, at++) {
        const value = values[at];
        if (!Number.isFinite(value))
          throw new AttuneError(
            'NOT_FINITE',
            `toFrames: frame ${frame} holds ${value}; the model's numbers went wrong before this.`,
            { frame, value },
          );
        data[o] = Math.round(255 * Math.min(1, Math.max(0, value)));
      }
    const delay = typeof delays === 'number' ? delays : delays[frame];
    return { data, width, height, delay };
  });
}
