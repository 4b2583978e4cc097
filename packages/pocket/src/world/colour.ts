/** Colours, ramps of colours, and the noise that gives surfaces their grain. All in display RGB, [0, 1]. */

export type Rgb = readonly [r: number, g: number, b: number];
export type Ramp = readonly (readonly [at: number, colour: Rgb])[];

/** '#rrggbb' → RGB. */
export const rgb = (code: string): Rgb => [
  Number.parseInt(code.slice(1, 3), 16) / 255,
  Number.parseInt(code.slice(3, 5), 16) / 255,
  Number.parseInt(code.slice(5, 7), 16) / 255,
];

export const mix = (a: Rgb, b: Rgb, t: number): Rgb => [
  a[0] + (b[0] - a[0]) * t,
  a[1] + (b[1] - a[1]) * t,
  a[2] + (b[2] - a[2]) * t,
];

export const luma = (r: number, g: number, b: number): number => 0.299 * r + 0.587 * g + 0.114 * b;

export const clamp = (x: number, low = 0, high = 1): number =>
  x < low ? low : x > high ? high : x;

/** 0 below `from`, 1 above `to`, smooth between. */
export function smoothstep(from: number, to: number, x: number): number {
  const t = clamp((x - from) / (to - from));
  return t * t * (3 - 2 * t);
}

/** Evenly spaced stops. */
export const ramp = (...codes: readonly string[]): Ramp =>
  codes.map((code, i) => [i / Math.max(1, codes.length - 1), rgb(code)] as const);

/** The colour of a ramp at t; the ends hold beyond [0, 1]. */
export function shade(stops: Ramp, t: number): Rgb {
  let below = stops[0];
  for (const stop of stops) {
    if (t <= stop[0]) {
      if (stop === below) return stop[1];
      return mix(below[1], stop[1], (t - below[0]) / (stop[0] - below[0]));
    }
    below = stop;
  }
  return below[1];
}

/** A hash of an integer lattice point, uniform in [0, 1). */
export function lattice(x: number, y: number, seed: number): number {
  let h = Math.imul(x, 0x27d4eb2d) ^ Math.imul(y, 0x165667b1) ^ Math.imul(seed, 0x9e3779b1);
  h = Math.imul(h ^ (h >>> 15), 0x85ebca77);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae3d);
  return ((h ^ (h >>> 16)) >>> 0) * 2 ** -32;
}

/** Smooth value noise of unit wavelength, in [0, 1). */
export function noise(x: number, y: number, seed: number): number {
  const x0 = Math.floor(x);
  const y0 = Math.floor(y);
  const u = smoothstep(0, 1, x - x0);
  const v = smoothstep(0, 1, y - y0);
  const above = lattice(x0, y0, seed) * (1 - u) + lattice(x0 + 1, y0, seed) * u;
  const below = lattice(x0, y0 + 1, seed) * (1 - u) + lattice(x0 + 1, y0 + 1, seed) * u;
  return above * (1 - v) + below * v;
}

/** Cells of unit size: `edge` is 0 on the border between two cells, `id` is the nearer cell's own hash. */
export function cells(x: number, y: number, seed: number): { edge: number; id: number } {
  const x0 = Math.floor(x);
  const y0 = Math.floor(y);
  let first = Infinity;
  let second = Infinity;
  let id = 0;
  for (let j = y0 - 1; j <= y0 + 1; j++)
    for (let i = x0 - 1; i <= x0 + 1; i++) {
      const dx = i + lattice(i, j, seed) - x;
      const dy = j + lattice(i, j, seed + 1) - y;
      const far = Math.sqrt(dx * dx + dy * dy);
      if (far < first) {
        second = first;
        first = far;
        id = lattice(i, j, seed + 2);
      } else if (far < second) second = far;
    }
  return { edge: second - first, id };
}
