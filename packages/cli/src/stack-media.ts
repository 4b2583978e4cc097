/** Masks of strengths and pictures of routes as people have them. */

import { type ReadImage, type ReadMask, readTensorImage, readTensorMask } from '@attune/core';
import { AttuneError, f32 } from '@attune/engine';

import { fitFrames, readMedia } from './media/index.ts';

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

/** A picture, scaled until it covers the size that is asked for and cropped; a .safetensors file's tensor `image` as it is. */
export const readImage: ReadImage = async (path) => {
  if (path.endsWith('.safetensors')) return readTensorImage(path);
  const { frames } = await readMedia(path);
  if (frames.length > 1)
    throw new AttuneError(
      'BAD_IMAGE',
      `${path} is a clip of ${frames.length} frames, and a route takes a picture.`,
    );
  return async (height, width) =>
    f32(await fitFrames(frames, width, height), [1, 3, height, width]);
};

/** How commands read what a stack file names. */
export const stackMedia = { readMask, readImage } as const;
