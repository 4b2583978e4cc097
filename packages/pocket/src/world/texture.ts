/** Recolours a sprite as gold, ice or stone: its own light and dark, a rounded relief, and a grain. */

import { sprite, TEXELS } from './atlas.ts';
import { type ObjectName, type TextureName } from './catalogue.ts';
import {
  cells,
  clamp,
  lattice,
  luma,
  noise,
  type Ramp,
  rgb,
  type Rgb,
  shade,
  smoothstep,
} from './colour.ts';

interface Material {
  readonly tones: Ramp;
  /** How strongly the relief shows. */
  readonly relief: number;
  /** The tone of a texel, from what its light and relief make it. */
  readonly grain: (x: number, y: number, tone: number) => number;
}

const stop = (at: number, code: string): readonly [number, Rgb] => [at, rgb(code)];

const MATERIALS: { readonly [name in TextureName]: Material } = {
  golden: {
    tones: [
      stop(0, '#4a2600'),
      stop(0.3, '#a3660a'),
      stop(0.55, '#e5a918'),
      stop(0.78, '#ffdc4f'),
      stop(1, '#fffbd8'),
    ],
    relief: 1,
    grain: (x, y, tone) => {
      const glint = Math.sin((x + 0.6 * y) * 0.17);
      return tone + 0.2 * glint * glint * glint;
    },
  },
  icy: {
    tones: [
      stop(0, '#0b4a8c'),
      stop(0.3, '#3d9ddb'),
      stop(0.58, '#8fd3f5'),
      stop(0.82, '#d3f1fd'),
      stop(1, '#ffffff'),
    ],
    relief: 0.8,
    grain: (x, y, tone) => {
      const { edge, id } = cells(x / 17, y / 17, 11);
      return tone + 0.34 * (id - 0.5) + 0.4 * (1 - smoothstep(0, 0.14, edge));
    },
  },
  stone: {
    tones: [stop(0, '#2a2a2e'), stop(0.35, '#67656a'), stop(0.65, '#9d9b9c'), stop(1, '#d8d5d0')],
    relief: 0.8,
    grain: (x, y, tone) => {
      const { edge } = cells(x / 24 + 0.4 * noise(x / 8, y / 8, 5), y / 24, 23);
      const crack = 1 - smoothstep(0.02, 0.1, edge);
      const speckle = lattice(x >> 1, y >> 1, 7) - 0.5;
      return tone + 0.3 * speckle + 0.22 * (noise(x / 10, y / 10, 3) - 0.5) - 0.5 * crack;
    },
  },
};

const done = new Map<string, Float32Array>();

/** The object's sprite, [TEXELS, TEXELS, 4] premultiplied, in a texture; each is made once. */
export function textured(name: ObjectName, texture: TextureName | undefined): Float32Array {
  const plain = sprite(name).colour;
  if (!texture) return plain;
  const key = `${name}/${texture}`;
  let picture = done.get(key);
  if (!picture) done.set(key, (picture = recolour(plain, MATERIALS[texture])));
  return picture;
}

function recolour(plain: Float32Array, { tones, relief, grain }: Material): Float32Array {
  const { low, high, gamma } = tonalRange(plain);
  const height = rounded(plain);
  const out = new Float32Array(plain.length);
  for (let y = 0; y < TEXELS; y++)
    for (let x = 0; x < TEXELS; x++) {
      const t = y * TEXELS + x;
      const alpha = plain[t * 4 + 3];
      if (alpha === 0) continue;
      const light = luma(plain[t * 4], plain[t * 4 + 1], plain[t * 4 + 2]) / alpha;
      const slope =
        (height[y * TEXELS + Math.min(TEXELS - 1, x + 2)] -
          height[y * TEXELS + Math.max(0, x - 2)] +
          height[Math.min(TEXELS - 1, y + 2) * TEXELS + x] -
          height[Math.max(0, y - 2) * TEXELS + x]) *
        relief; // lit from the upper left
      const tone = 0.18 + 0.62 * clamp((light - low) / (high - low)) ** gamma + slope;
      const colour = shade(tones, grain(x, y, tone));
      for (let c = 0; c < 3; c++) out[t * 4 + c] = colour[c] * alpha;
      out[t * 4 + 3] = alpha;
    }
  return out;
}

/**
 * The 4th and 96th percentile of the sprite's brightness, kept at least 0.4 apart; and the power that
 * brings the mean between them to 0.6, so that a dark sprite does not make dark gold.
 */
function tonalRange(plain: Float32Array): { low: number; high: number; gamma: number } {
  const light: number[] = [];
  for (let i = 0; i < plain.length; i += 4)
    if (plain[i + 3] > 0.5) light.push(luma(plain[i], plain[i + 1], plain[i + 2]) / plain[i + 3]);
  light.sort((a, b) => a - b);
  const first = light[Math.floor(light.length * 0.04)];
  const last = light[Math.floor(light.length * 0.96)];
  const spare = Math.max(0, 0.4 - (last - first));
  const low = first - 0.6 * spare;
  const high = last + 0.4 * spare;
  const mean =
    light.reduce((sum, value) => sum + clamp((value - low) / (high - low)), 0) / light.length;
  return { low, high, gamma: clamp(Math.log(0.6) / Math.log(mean), 0.45, 1.3) };
}

/** Opacity blurred three times: high in the middle of the sprite, falling towards its rim. */
function rounded(plain: Float32Array): Float32Array {
  let from: Float32Array = Float32Array.from(
    { length: TEXELS * TEXELS },
    (_, t) => plain[t * 4 + 3],
  );
  for (let pass = 0; pass < 3; pass++) from = blur(from, TEXELS, TEXELS, 3);
  return from;
}

/** A box blur of the given radius over [height, width]; beyond the border lies 0. */
export function blur(
  from: Float32Array,
  width: number,
  height: number,
  radius: number,
): Float32Array {
  const across = new Float32Array(from.length);
  const out = new Float32Array(from.length);
  const share = 1 / (2 * radius + 1);
  for (let y = 0; y < height; y++) {
    let sum = 0;
    for (let x = -radius; x < width; x++) {
      if (x + radius < width) sum += from[y * width + x + radius];
      if (x - radius - 1 >= 0) sum -= from[y * width + x - radius - 1];
      if (x >= 0) across[y * width + x] = sum * share;
    }
  }
  for (let x = 0; x < width; x++) {
    let sum = 0;
    for (let y = -radius; y < height; y++) {
      if (y + radius < height) sum += across[(y + radius) * width + x];
      if (y - radius - 1 >= 0) sum -= across[(y - radius - 1) * width + x];
      if (y >= 0) out[y * width + x] = sum * share;
    }
  }
  return out;
}
