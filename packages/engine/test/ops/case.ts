/** What a row of the case table says, and how its inputs are drawn. */

import { type F32Array, f32, type Rng, type Shape, type Tensor } from '../../src/index.ts';
import type { Grid } from './reference.ts';

/** One value of an input. */
export type Draw = (rng: Rng) => number;

export interface In {
  readonly shape: Shape;
  /** Default: standard normal. */
  readonly draw?: Draw;
  /** A frozen parameter instead of an input: it gets no gradient. */
  readonly frozen?: true;
}

export interface Case {
  readonly in: readonly (Shape | In)[];
  readonly build: (...xs: Tensor[]) => Tensor;
  /** The same in float64; left out where the op only names a composition of others. */
  readonly want: (...xs: Grid[]) => Grid;
  /** `raises`: differentiating is an error; `none`: no gradient flows, on purpose. */
  readonly gradient?: 'flows' | 'raises' | 'none';
  /** What the shapes do not tell. */
  readonly label?: string;
  /** Step of the central difference. */
  readonly eps?: number;
}

export const normal: Draw = (rng) => rng.normal();
/** Away from zero and from infinity: for logarithms, roots and divisors. */
export const positive: Draw = (rng) => 0.5 + 1.5 * rng.uniform();
/** Within 0.2 of `offset` plus an integer: away from the kinks at the other places. */
export const near =
  (offset: number): Draw =>
  (rng) =>
    rng.int(5) - 2 + offset + 0.4 * (rng.uniform() - 0.5);

export const frozen = (shape: Shape): In => ({ shape, frozen: true });

export const inputOf = (given: Shape | In): In => ('shape' in given ? given : { shape: given });

export const drawn = ({ shape, draw = normal }: In, rng: Rng): F32Array =>
  f32(
    Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => draw(rng)),
    shape,
  );

export const gridOf = ({ shape, data }: F32Array): Grid => ({
  shape,
  data: Float64Array.from(data),
});

/** `(2,3) (3): label`. */
export const titleOf = (row: Case): string => {
  const shapes = row.in.map((given) => {
    const { shape, frozen: still } = inputOf(given);
    return `${still ? 'frozen ' : ''}[${shape.join(' ')}]`;
  });
  return shapes.join(' ') + (row.label ? `: ${row.label}` : '');
};

/** Rows for every op of a module. */
export type Rows<Ops> = { readonly [K in keyof Ops]: readonly Case[] };

/** A row of one input: its shape, the op, the same in float64, what the shape does not tell. */
type Line = readonly [
  shape: Shape,
  build: (x: Tensor) => Tensor,
  want: (x: Grid) => Grid,
  label: string,
  gradient?: Case['gradient'],
];

/** Rows, those of one input in short form. */
export const lines = (...given: readonly (Line | Case)[]): readonly Case[] =>
  given.map((row) => {
    if ('in' in row) return row;
    const [shape, build, want, label, gradient = 'flows'] = row;
    return { in: [shape], build, want, label, gradient };
  });
