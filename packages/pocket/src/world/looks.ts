/** What is done to a whole picture: the global looks, the styles, the pencil sketch. */

import { type GlobalName } from './catalogue.ts';
import { clamp, luma, mix, noise, rgb, smoothstep } from './colour.ts';
import { AREA, type Picture, SIDE } from './paint.ts';

/** Visits every pixel's colour; the answer replaces it. */
function eachPixel(
  picture: Picture,
  change: (r: number, g: number, b: number, i: number) => readonly [number, number, number],
): void {
  for (let i = 0; i < AREA; i++) {
    const [r, g, b] = change(picture[i], picture[i + AREA], picture[i + 2 * AREA], i);
    picture[i] = clamp(r);
    picture[i + AREA] = clamp(g);
    picture[i + 2 * AREA] = clamp(b);
  }
}

/** How thick the fog is at every pixel, [SIDE, SIDE]. */
export function fogBank(seed: number): Float32Array {
  return Float32Array.from({ length: AREA }, (_, i) => {
    const x = i % SIDE;
    const y = Math.floor(i / SIDE);
    return 0.6 + 0.3 * (noise(x / 22, y / 9, seed) - 0.5) - 0.12 * (y / SIDE);
  });
}

const FOG = rgb('#d3d9de');

/** Changes a picture in place. */
export function applyGlobal(picture: Picture, look: GlobalName, fog: Float32Array): void {
  switch (look) {
    case 'night':
      return eachPixel(picture, (r, g, b) => {
        const grey = 0.35 * luma(r, g, b);
        return [
          0.01 + 0.42 * (0.65 * r + grey),
          0.02 + 0.46 * (0.65 * g + grey),
          0.09 + 0.72 * (0.65 * b + grey),
        ];
      });
    case 'fog':
      return eachPixel(picture, (r, g, b, i) => mix([r, g, b], FOG, fog[i]));
    case 'sepia':
      return eachPixel(picture, (r, g, b) => {
        const grey = luma(r, g, b);
        return [0.12 + 0.88 * grey, 0.06 + 0.83 * grey, 0.01 + 0.69 * grey];
      });
  }
}

/** Pixels along a block of pixel art: of the background, and of the object, which stays readable. */
const COARSE = 4;
const FINE = 2;
/** Levels of each primary in the palette. */
const LEVELS = 5;

/** A background as pixel art, in place. */
export function pixelBackdrop(picture: Picture): void {
  for (let y = 0; y < SIDE; y += COARSE)
    for (let x = 0; x < SIDE; x += COARSE) flatten(picture, x, y, COARSE);
}

/**
 * The object as pixel art, in place: where it covers half of a fine block it fills all of it, and
 * elsewhere the frame shows `backdrop`. The mask follows.
 */
export function pixelFigure(picture: Picture, mask: Float32Array, backdrop: Picture): void {
  for (let y = 0; y < SIDE; y += FINE)
    for (let x = 0; x < SIDE; x += FINE) {
      const covered = blockMean(mask, 0, x, y, FINE) >= 0.5;
      fillBlock(mask, 0, x, y, FINE, covered ? 1 : 0);
      if (covered) flatten(picture, x, y, FINE);
      else
        for (let c = 0; c < 3 * AREA; c += AREA)
          for (let i = c + y * SIDE + x; i < c + (y + FINE) * SIDE; i += SIDE)
            picture.set(backdrop.subarray(i, i + FINE), i);
    }
}

/** Gives one block its mean colour, made vivid and rounded to the palette. */
function flatten(picture: Picture, x: number, y: number, block: number): void {
  const r = blockMean(picture, 0, x, y, block);
  const g = blockMean(picture, AREA, x, y, block);
  const b = blockMean(picture, 2 * AREA, x, y, block);
  const grey = luma(r, g, b);
  for (const [c, value] of [r, g, b].entries()) {
    const vivid = clamp(0.5 + 1.1 * (grey + 1.2 * (value - grey) - 0.5));
    const level = Math.round(vivid * (LEVELS - 1)) / (LEVELS - 1);
    fillBlock(picture, c * AREA, x, y, block, level);
  }
}

/** The mean of a block of the plane that begins at `plane`. */
function blockMean(from: Float32Array, plane: number, x: number, y: number, block: number): number {
  let sum = 0;
  for (let j = y; j < y + block; j++)
    for (let i = x; i < x + block; i++) sum += from[plane + j * SIDE + i];
  return sum / (block * block);
}

function fillBlock(
  to: Float32Array,
  plane: number,
  x: number,
  y: number,
  block: number,
  value: number,
): void {
  for (let j = y; j < y + block; j++)
    to.fill(value, plane + j * SIDE + x, plane + j * SIDE + x + block);
}

/** Strength of the edges, [SIDE, SIDE]: the colour's step to the right and downwards, one pixel wide. */
function edges(picture: Picture): Float32Array {
  const out = new Float32Array(AREA);
  for (let y = 0; y < SIDE; y++)
    for (let x = 0; x < SIDE; x++) {
      const i = y * SIDE + x;
      const right = x + 1 < SIDE ? i + 1 : i;
      const below = y + 1 < SIDE ? i + SIDE : i;
      let sum = 0;
      for (let c = 0; c < 3 * AREA; c += AREA)
        sum +=
          (picture[c + right] - picture[c + i]) ** 2 + (picture[c + below] - picture[c + i]) ** 2;
      out[i] = Math.sqrt(sum);
    }
  return out;
}

const PAPER = rgb('#fdfcf7');
const PALE_INK = rgb('#8e8c96');
const GRAPHITE = rgb('#3b3b41');

/** A background as thin grey outlines on paper, in place: what stands behind line art. */
export function outlined(picture: Picture): void {
  const edge = edges(picture);
  eachPixel(picture, (_r, _g, _b, i) => mix(PAPER, PALE_INK, smoothstep(0.1, 0.3, edge[i])));
}

/** A background bleached to flat pastels, in place: what stands behind a sticker. */
export function bleached(picture: Picture): void {
  eachPixel(picture, (r, g, b) => mix([r, g, b], [0.97, 0.95, 0.98], 0.55));
}

/** The frame as a pencil sketch, in place: its edges, and hatching where it is dark. */
export function sketched(picture: Picture): void {
  const edge = edges(picture);
  eachPixel(picture, (r, g, b, i) => {
    const line = smoothstep(0.06, 0.3, edge[i]);
    const stroke = ((i % SIDE) + Math.floor(i / SIDE)) % 4 < 2 ? 1 : 0.25;
    const hatch = 0.38 * stroke * smoothstep(0.62, 0.25, luma(r, g, b));
    return mix(PAPER, GRAPHITE, Math.max(0.9 * line, hatch));
  });
}
