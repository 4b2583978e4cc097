/** RGB and the planar YUV of video: BT.601 and BT.709, limited and full range, any chroma subsampling. */

/** How a decoder's or container's colours are meant; missing members are guessed as players guess. */
export interface YuvMeaning {
  readonly matrix?: string | null | undefined;
  readonly fullRange?: boolean | null | undefined;
}

/** One plane of 8-bit samples inside `data`. */
export interface Plane {
  readonly offset: number;
  readonly stride: number;
}

/** Chroma subsampling by planar format name: [across, down]. */
const subsampling: Readonly<Record<string, readonly [number, number]>> = {
  I420: [2, 2],
  I420A: [2, 2],
  I422: [2, 1],
  I422A: [2, 1],
  I444: [1, 1],
  I444A: [1, 1],
  NV12: [2, 2],
};

/** True where `toRgb` understands the format. */
export const isPlanar = (format: string): boolean => format in subsampling;

/** Red and blue weights of a matrix: BT.709 by name, or by size (720 rows and more) where it is not named. */
function weights(matrix: string | null | undefined, height: number): readonly [number, number] {
  const is709 = matrix === 'bt709' || (!matrix && height >= 720);
  return is709 ? [0.2126, 0.0722] : [0.299, 0.114];
}

/** Planar 8-bit YUV → RGB [height, width, 3]. Chroma is taken from its nearest sample, so flat areas stay exact. */
export function toRgb(
  data: Uint8Array,
  planes: readonly Plane[],
  format: string,
  width: number,
  height: number,
  meaning: YuvMeaning,
): Uint8Array {
  const [across, down] = subsampling[format];
  const interleaved = format === 'NV12';
  const [kr, kb] = weights(meaning.matrix, height);
  const kg = 1 - kr - kb;
  const black = meaning.fullRange ? 0 : 16;
  const scale = meaning.fullRange ? 1 : 255 / 219;
  const chroma = meaning.fullRange ? 1 : 255 / 224;
  const redV = 2 * (1 - kr) * chroma;
  const blueU = 2 * (1 - kb) * chroma;
  const greenU = (-2 * kb * (1 - kb) * chroma) / kg;
  const greenV = (-2 * kr * (1 - kr) * chroma) / kg;
  const step = interleaved ? 2 : 1;
  const vPlane = interleaved ? { ...planes[1], offset: planes[1].offset + 1 } : planes[2];
  const out = new Uint8ClampedArray(width * height * 3); // rounds and clamps
  for (let y = 0, o = 0; y < height; y++) {
    const row = planes[0].offset + y * planes[0].stride;
    const half = Math.floor(y / down);
    const uRow = planes[1].offset + half * planes[1].stride;
    const vRow = vPlane.offset + half * vPlane.stride;
    for (let x = 0; x < width; x++, o += 3) {
      const at = Math.floor(x / across) * step;
      const luma = (data[row + x] - black) * scale;
      const u = data[uRow + at] - 128;
      const v = data[vRow + at] - 128;
      out[o] = luma + redV * v;
      out[o + 1] = luma + greenU * u + greenV * v;
      out[o + 2] = luma + blueU * u;
    }
  }
  return new Uint8Array(out.buffer);
}

/**
 * RGB [height, width, 3] → I420, BT.709, limited range. Odd sizes grow by one column or row that
 * repeats the edge, because 4:2:0 video is even: the result is [evenHeight, evenWidth].
 */
export function toI420(rgb: Uint8Array, width: number, height: number): Uint8Array {
  const w = width + (width % 2);
  const h = height + (height % 2);
  const quarter = (w * h) / 4;
  const out = new Uint8Array(w * h + 2 * quarter);
  for (let y = 0; y < h; y += 2) {
    for (let x = 0; x < w; x += 2) {
      let red = 0;
      let green = 0;
      let blue = 0;
      for (let j = y; j < y + 2; j++) {
        for (let i = x; i < x + 2; i++) {
          const at = (Math.min(j, height - 1) * width + Math.min(i, width - 1)) * 3;
          const [r, g, b] = [rgb[at], rgb[at + 1], rgb[at + 2]];
          out[j * w + i] = Math.round(16 + (219 / 255) * (0.2126 * r + 0.7152 * g + 0.0722 * b));
          red += r / 4;
          green += g / 4;
          blue += b / 4;
        }
      }
      const luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue;
      const at = w * h + (y / 2) * (w / 2) + x / 2;
      out[at] = Math.round(128 + ((224 / 255) * (blue - luma)) / 1.8556);
      out[at + quarter] = Math.round(128 + ((224 / 255) * (red - luma)) / 1.5748);
    }
  }
  return out;
}
