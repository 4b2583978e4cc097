/** Masks of strengths as people have them: pictures and clips, whose brightness they are. */

import { type ReadMask, readTensorMask } from '@attune/core';
import { f32 } from '@attune/engine';

import { readMedia } from './media/index.ts';

/** A picture as [H, W], a clip as [F, H, W], white being 1 (Rec. 709 luma); a .safetensors file's tensor `mask` as it is. */
export const readMask: ReadMask = async (path) => {
  if (path.endsWith('.safetensors')) return readTensorMask(path);
  const { frames, width, height } = await readMedia(path);
  const size = width * height;
  const data = new Float32Array(frames.length * size);
  frames.forEach(({ data: rgb }, f) => {
    for (let i = 0; i < size; i++) {
      const [r, g, b] = [rgb[3 * i], rgb[3 * i + 1], rgb[3 * i + 2]];
      data[f * size + i] = (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
    }
  });
  return f32(data, frames.length === 1 ? [height, width] : [frames.length, height, width]);
};
