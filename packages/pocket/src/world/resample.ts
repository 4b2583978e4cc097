/** Area sampling of a premultiplied picture under a similarity transform. */

/** A premultiplied RGBA picture, [height, width, 4]. */
export interface Texels {
  readonly data: Float32Array;
  readonly width: number;
  readonly height: number;
}

/** Maps a target pixel's centre (x, y) to source coordinates: u = u0 + a·x − b·y, v = v0 + b·x + a·y. */
export interface Similarity {
  readonly u0: number;
  readonly v0: number;
  readonly a: number;
  readonly b: number;
}

/** The transform that takes the target point (x, y) to (u, v), `scale` texels a pixel, turned clockwise by `angle` on screen. */
export function similarity(
  x: number,
  y: number,
  u: number,
  v: number,
  scale: number,
  angle: number,
): Similarity {
  const a = scale * Math.cos(angle);
  const b = -scale * Math.sin(angle);
  return { u0: u - a * x + b * y, v0: v - b * x - a * y, a, b };
}

/**
 * The mean RGBA of the source under the pixel centred on (x, y), written to `out`: bilinear samples on
 * an n × n grid fine enough that none skips a texel.
 */
export function footprint(
  { data, width, height }: Texels,
  { u0, v0, a, b }: Similarity,
  x: number,
  y: number,
  n: number,
  out: Float32Array,
): void {
  let red = 0;
  let green = 0;
  let blue = 0;
  let alpha = 0;
  for (let j = 0; j < n; j++) {
    const sy = y + (j + 0.5) / n - 0.5;
    for (let i = 0; i < n; i++) {
      const sx = x + (i + 0.5) / n - 0.5;
      const u = u0 + a * sx - b * sy - 0.5;
      const v = v0 + b * sx + a * sy - 0.5;
      const left = Math.floor(u);
      const top = Math.floor(v);
      if (left < 0 || top < 0 || left >= width - 1 || top >= height - 1) continue;
      const fx = u - left;
      const fy = v - top;
      const p = (top * width + left) * 4;
      const q = p + width * 4;
      const w11 = fx * fy;
      const w10 = fy - w11;
      const w01 = fx - w11;
      const w00 = 1 - fx - w10;
      red += w00 * data[p] + w01 * data[p + 4] + w10 * data[q] + w11 * data[q + 4];
      green += w00 * data[p + 1] + w01 * data[p + 5] + w10 * data[q + 1] + w11 * data[q + 5];
      blue += w00 * data[p + 2] + w01 * data[p + 6] + w10 * data[q + 2] + w11 * data[q + 6];
      alpha += w00 * data[p + 3] + w01 * data[p + 7] + w10 * data[q + 3] + w11 * data[q + 7];
    }
  }
  const share = 1 / (n * n);
  out[0] = red * share;
  out[1] = green * share;
  out[2] = blue * share;
  out[3] = alpha * share;
}

/** How many samples a side a footprint of `scale` texels needs. */
export const tapsFor = (scale: number): number => Math.min(4, Math.max(1, Math.ceil(scale / 1.25)));
