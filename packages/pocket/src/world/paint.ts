/** Brushes for the backgrounds: anti-aliased shapes on one small picture. */

import { clamp, type Ramp, type Rgb, shade } from './colour.ts';

/** Pixels along each side of a frame. */
export const SIDE = 64;
/** Pixels of a frame. */
export const AREA = SIDE * SIDE;

/** A frame, [3, SIDE, SIDE], in [0, 1]. */
export type Picture = Float32Array;

/** Lays `colour` over one pixel with the given opacity. */
export function blend(to: Picture, x: number, y: number, colour: Rgb, opacity: number): void {
  if (opacity <= 0) return;
  const i = y * SIDE + x;
  const a = opacity > 1 ? 1 : opacity;
  to[i] += (colour[0] - to[i]) * a;
  to[i + AREA] += (colour[1] - to[i + AREA]) * a;
  to[i + 2 * AREA] += (colour[2] - to[i + 2 * AREA]) * a;
}

/** Visits the pixels that a shape's bounds touch, clipped to the picture. */
function within(
  x0: number,
  y0: number,
  x1: number,
  y1: number,
  visit: (x: number, y: number) => void,
): void {
  const right = Math.min(SIDE, Math.ceil(x1));
  const bottom = Math.min(SIDE, Math.ceil(y1));
  for (let y = Math.max(0, Math.floor(y0)); y < bottom; y++)
    for (let x = Math.max(0, Math.floor(x0)); x < right; x++) visit(x, y);
}

/** A vertical gradient over rows [y0, y1). */
export function paintSky(to: Picture, y0: number, y1: number, stops: Ramp): void {
  for (let y = Math.max(0, Math.floor(y0)); y < Math.min(SIDE, y1); y++) {
    const colour = shade(stops, (y + 0.5 - y0) / (y1 - y0));
    for (let x = 0; x < SIDE; x++) blend(to, x, y, colour, 1);
  }
}

/** Everything below the line y = height(x); `fill` gets the depth below it in px. */
export function paintGround(
  to: Picture,
  height: (x: number) => number,
  fill: (depth: number, x: number, y: number) => Rgb,
): void {
  for (let x = 0; x < SIDE; x++) {
    const top = height(x + 0.5);
    for (let y = Math.max(0, Math.floor(top)); y < SIDE; y++)
      blend(to, x, y, fill(y + 0.5 - top, x, y), y + 1 - top);
  }
}

/** An ellipse; `soft` is the width of its edge in px. */
export function paintDisc(
  to: Picture,
  cx: number,
  cy: number,
  rx: number,
  ry: number,
  colour: Rgb,
  { opacity = 1, soft = 1 }: { opacity?: number; soft?: number } = {},
): void {
  const small = Math.min(rx, ry);
  within(cx - rx - soft, cy - ry - soft, cx + rx + soft, cy + ry + soft, (x, y) => {
    const u = (x + 0.5 - cx) / rx;
    const v = (y + 0.5 - cy) / ry;
    const inside = (1 - Math.sqrt(u * u + v * v)) * small;
    blend(to, x, y, colour, opacity * clamp(inside / soft + 0.5));
  });
}

/** An axis-aligned box, by coverage. */
export function paintBox(
  to: Picture,
  x0: number,
  y0: number,
  x1: number,
  y1: number,
  colour: Rgb,
  opacity = 1,
): void {
  within(x0, y0, x1, y1, (x, y) => {
    const wide = Math.min(x + 1, x1) - Math.max(x, x0);
    const high = Math.min(y + 1, y1) - Math.max(y, y0);
    blend(to, x, y, colour, opacity * clamp(wide) * clamp(high));
  });
}

/** A trapezoid standing on `bottom`: `topWidth` wide at the top, `bottomWidth` at the bottom. */
export function paintTaper(
  to: Picture,
  cx: number,
  top: number,
  bottom: number,
  topWidth: number,
  bottomWidth: number,
  colour: Rgb,
): void {
  const reach = Math.max(topWidth, bottomWidth) / 2 + 1;
  within(cx - reach, top, cx + reach, bottom, (x, y) => {
    const t = clamp((y + 0.5 - top) / (bottom - top));
    const half = (topWidth + (bottomWidth - topWidth) * t) / 2;
    const wide = Math.min(x + 1, cx + half) - Math.max(x, cx - half);
    const high = Math.min(y + 1, bottom) - Math.max(y, top);
    blend(to, x, y, colour, clamp(wide) * clamp(high));
  });
}

/** A line with round ends. */
export function paintLine(
  to: Picture,
  x0: number,
  y0: number,
  x1: number,
  y1: number,
  width: number,
  colour: Rgb,
  opacity = 1,
): void {
  const dx = x1 - x0;
  const dy = y1 - y0;
  const long = dx * dx + dy * dy || 1;
  const r = width / 2;
  within(
    Math.min(x0, x1) - r - 1,
    Math.min(y0, y1) - r - 1,
    Math.max(x0, x1) + r + 1,
    Math.max(y0, y1) + r + 1,
    (x, y) => {
      const px = x + 0.5 - x0;
      const py = y + 0.5 - y0;
      const t = clamp((px * dx + py * dy) / long);
      const ex = px - t * dx;
      const ey = py - t * dy;
      blend(to, x, y, colour, opacity * clamp(r + 0.5 - Math.sqrt(ex * ex + ey * ey)));
    },
  );
}
