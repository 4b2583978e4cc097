/** What stands about in the backgrounds: hills, clouds, palms, cacti, pines. */

import { type Rng } from '@attune/engine';

import { rgb, type Rgb } from './colour.ts';
import { paintBox, paintDisc, paintLine, paintTaper, type Picture, SIDE } from './paint.ts';

const { sin, PI } = Math;
export const WHITE: Rgb = rgb('#ffffff');

/** Uniform in [low, high). */
export const between = (rng: Rng, low: number, high: number): number =>
  low + (high - low) * rng.uniform();

/** The line of a hilly horizon: y of its mean, height of its hills, px of a whole wave. */
export function hills(rng: Rng, y: number, height: number, wave: number): (x: number) => number {
  const phase = between(rng, 0, 2 * PI);
  const other = between(rng, 0, 2 * PI);
  return (x) =>
    y +
    height * (0.65 * sin((2 * PI * x) / wave + phase) + 0.35 * sin((4.6 * PI * x) / wave + other));
}

function cloud(to: Picture, x: number, y: number, size: number, colour: Rgb): void {
  paintDisc(to, x, y, size, size * 0.42, colour, { soft: 1.2 });
  paintDisc(to, x - size * 0.35, y - size * 0.28, size * 0.5, size * 0.42, colour);
  paintDisc(to, x + size * 0.3, y - size * 0.38, size * 0.55, size * 0.5, colour);
}

/** A row of white clouds, their centres above the row `lowest`. */
export function clouds(to: Picture, rng: Rng, count: number, lowest: number): void {
  for (let i = 0; i < count; i++)
    cloud(
      to,
      ((i + between(rng, 0.15, 0.85)) * SIDE) / count,
      between(rng, 6, lowest),
      between(rng, 5, 8),
      WHITE,
    );
}

/** A palm that leans a little to its side, −1 or 1. */
export function palm(to: Picture, x: number, foot: number, side: number): void {
  const trunk = rgb('#8a5a33');
  const top = foot - 36;
  const bend = side * 1.5;
  for (let i = 0; i < 6; i++)
    paintLine(
      to,
      x + bend * sin((i / 6) * PI),
      foot - i * 6,
      x + bend * sin(((i + 1) / 6) * PI),
      foot - (i + 1) * 6,
      2.6 - i * 0.18,
      trunk,
    );
  for (const [dx, dy, code] of [
    [-11, 4, '#1f7f3c'],
    [11, 4, '#1f7f3c'],
    [-9, -4, '#2fa24c'],
    [9, -4, '#2fa24c'],
    [-4, 9, '#268f43'],
    [5, 9, '#268f43'],
  ] as const) {
    paintLine(to, x, top, x + dx * 0.6, top + dy * 0.5 - 2.2, 2.6, rgb(code));
    paintLine(to, x + dx * 0.6, top + dy * 0.5 - 2.2, x + dx, top + dy + 1, 2, rgb(code));
  }
}

/** A cactus with two arms. */
export function cactus(to: Picture, x: number, foot: number, tall: number): void {
  const green = rgb('#3b8a4a');
  paintLine(to, x, foot, x, foot - tall, 3.4, green);
  paintLine(to, x, foot - tall * 0.38, x - 4, foot - tall * 0.38, 2.2, green);
  paintLine(to, x - 4, foot - tall * 0.38, x - 4, foot - tall * 0.72, 2.2, green);
  paintLine(to, x, foot - tall * 0.52, x + 4, foot - tall * 0.52, 2.2, green);
  paintLine(to, x + 4, foot - tall * 0.52, x + 4, foot - tall * 0.85, 2.2, green);
  paintLine(to, x - 0.6, foot - 1, x - 0.6, foot - tall, 0.7, rgb('#6bb56a'));
}

/** A pine under snow. */
export function pine(to: Picture, x: number, foot: number, tall: number): void {
  paintBox(to, x - 0.8, foot - 3, x + 0.8, foot, rgb('#6b4a35'));
  for (let i = 0; i < 3; i++) {
    const bottom = foot - 2 - (i * tall) / 4;
    const width = 9 - i * 2.2;
    paintTaper(to, x, bottom - tall * 0.42, bottom, 0.4, width, rgb('#2d6a55'));
    paintTaper(to, x, bottom - tall * 0.42, bottom - tall * 0.2, 0.4, width * 0.52, WHITE);
  }
}
