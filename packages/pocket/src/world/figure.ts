/** The figure: an object with its hat, on a canvas of its own; what moves through the frame. */

import { sprite, TEXELS } from './atlas.ts';
import { HAT_FITS, type HatName, type ObjectName, SEATS } from './catalogue.ts';
import { rgb, type Rgb, smoothstep } from './colour.ts';
import { type Pose } from './motion.ts';
import { AREA, type Picture, SIDE } from './paint.ts';
import { footprint, similarity, type Similarity, tapsFor, type Texels } from './resample.ts';
import { type Scene } from './scene.ts';
import { blur, textured } from './texture.ts';

/** Room on the canvas beside and above the object's box, texels. */
const MARGIN = 24;
const HEADROOM = 64;
const WIDTH = TEXELS + 2 * MARGIN;
const HEIGHT = TEXELS + HEADROOM + MARGIN;
const INK = rgb('#26242e');
const WHITE = rgb('#ffffff');

/** An object and its hat. The object's box begins at (MARGIN, HEADROOM) of the canvas and is TEXELS wide. */
export interface Figure extends Texels {
  /** The part of the canvas that is not empty: [x0, x1) × [y0, y1). */
  readonly bounds: readonly [x0: number, y0: number, x1: number, y1: number];
}

/** The figure of a scene, in the scene's texture and style. */
export function buildFigure(scene: Scene): Figure {
  const lineArt = scene.style === 'line art';
  const data = new Float32Array(WIDTH * HEIGHT * 4);
  const object = lineArt ? inked(scene.object) : textured(scene.object, scene.texture);
  for (let y = 0; y < TEXELS; y++)
    data.set(
      object.subarray(y * TEXELS * 4, (y + 1) * TEXELS * 4),
      ((y + HEADROOM) * WIDTH + MARGIN) * 4,
    );
  if (scene.hat) {
    const hat = lineArt ? inked(scene.hat) : sprite(scene.hat).colour;
    putOn(data, hat, scene.object, scene.hat);
  }
  if (scene.style === 'sticker') cutOut(data);
  return { data, width: WIDTH, height: HEIGHT, bounds: boundsOf(data) };
}

/** A sprite as line art: dark ink on a white body. */
function inked(name: ObjectName | HatName): Float32Array {
  const { colour, ink } = sprite(name);
  const out = new Float32Array(colour.length);
  for (let t = 0; t < ink.length; t++) {
    const body = colour[t * 4 + 3] * (1 - ink[t]);
    for (let c = 0; c < 3; c++) out[t * 4 + c] = INK[c] * ink[t] + body;
    out[t * 4 + 3] = ink[t] + body;
  }
  return out;
}

/** Lays the hat over the object on the canvas. */
function putOn(data: Float32Array, hat: Float32Array, object: ObjectName, name: HatName): void {
  const seat = SEATS[object];
  const fit = HAT_FITS[name];
  const scale = 1 / (seat.width * fit.scale);
  const x = MARGIN + seat.x * TEXELS;
  const y = HEADROOM + seat.y * TEXELS;
  const angle = (seat.tilt * Math.PI) / 180;
  const to = similarity(x, y, fit.x * TEXELS, fit.y * TEXELS, scale, angle);
  const source: Texels = { data: hat, width: TEXELS, height: TEXELS };
  const reach = Math.ceil(TEXELS / scale);
  const taps = tapsFor(scale);
  const pixel = new Float32Array(4);
  for (let j = Math.max(0, Math.floor(y) - reach); j < Math.min(HEIGHT, y + reach); j++)
    for (let i = Math.max(0, Math.floor(x) - reach); i < Math.min(WIDTH, x + reach); i++) {
      footprint(source, to, i + 0.5, j + 0.5, taps, pixel);
      if (pixel[3] === 0) continue;
      const t = (j * WIDTH + i) * 4;
      for (let c = 0; c < 4; c++) data[t + c] = pixel[c] + data[t + c] * (1 - pixel[3]);
    }
}

/** Puts a white border and a thin grey edge behind the figure, as a sticker has. */
function cutOut(data: Float32Array): void {
  const alpha = Float32Array.from({ length: WIDTH * HEIGHT }, (_, t) => data[t * 4 + 3]);
  const spread = blur(blur(alpha, WIDTH, HEIGHT, 4), WIDTH, HEIGHT, 4);
  const edge: Rgb = rgb('#8b8b95');
  for (let t = 0; t < alpha.length; t++) {
    const behind = 1 - alpha[t];
    const paper = smoothstep(0.06, 0.12, spread[t]);
    const rim = smoothstep(0.003, 0.02, spread[t]);
    for (let c = 0; c < 3; c++)
      data[t * 4 + c] += behind * (WHITE[c] * paper + edge[c] * rim * (1 - paper));
    data[t * 4 + 3] += behind * (paper + rim * (1 - paper));
  }
}

function boundsOf(data: Float32Array): Figure['bounds'] {
  let [x0, y0, x1, y1] = [WIDTH, HEIGHT, 0, 0];
  for (let y = 0; y < HEIGHT; y++)
    for (let x = 0; x < WIDTH; x++)
      if (data[(y * WIDTH + x) * 4 + 3] > 0) {
        x0 = Math.min(x0, x);
        x1 = Math.max(x1, x + 1);
        y0 = Math.min(y0, y);
        y1 = Math.max(y1, y + 1);
      }
  return [x0, y0, x1, y1];
}

/** Draws the figure over a picture and writes its opacity to `mask`, [SIDE, SIDE]. */
export function drawFigure(to: Picture, mask: Float32Array, figure: Figure, pose: Pose): void {
  const scale = TEXELS / pose.size;
  const map = similarity(
    pose.x,
    pose.y,
    MARGIN + TEXELS / 2,
    HEADROOM + TEXELS / 2,
    scale,
    pose.angle,
  );
  const taps = tapsFor(scale);
  const [x0, y0, x1, y1] = onScreen(figure, map, scale);
  const pixel = new Float32Array(4);
  for (let y = y0; y < y1; y++)
    for (let x = x0; x < x1; x++) {
      footprint(figure, map, x + 0.5, y + 0.5, taps, pixel);
      const alpha = pixel[3];
      if (alpha === 0) continue;
      const i = y * SIDE + x;
      mask[i] = alpha;
      for (let c = 0; c < 3; c++) to[i + c * AREA] = pixel[c] + to[i + c * AREA] * (1 - alpha);
    }
}

/** The pixels of the frame that the figure's bounds can touch. */
function onScreen(
  { bounds: [u0, v0, u1, v1] }: Figure,
  { u0: tu, v0: tv, a, b }: Similarity,
  scale: number,
): [x0: number, y0: number, x1: number, y1: number] {
  const xs: number[] = [];
  const ys: number[] = [];
  for (const [u, v] of [
    [u0, v0],
    [u1, v0],
    [u0, v1],
    [u1, v1],
  ]) {
    xs.push((a * (u - tu) + b * (v - tv)) / (scale * scale));
    ys.push((a * (v - tv) - b * (u - tu)) / (scale * scale));
  }
  return [
    Math.max(0, Math.floor(Math.min(...xs)) - 1),
    Math.max(0, Math.floor(Math.min(...ys)) - 1),
    Math.min(SIDE, Math.ceil(Math.max(...xs)) + 1),
    Math.min(SIDE, Math.ceil(Math.max(...ys)) + 1),
  ];
}
