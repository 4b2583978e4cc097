/** A net: a traced function from named inputs to named outputs. */

import type { DType, Shape, Tensor } from '@attune/engine';

import type { Call, Scope } from '../nn/scope.ts';

/** Sizes of a call: clips B, frames F, height H and width W, tokens L, rows of `timestep`, … */
export type Dims = Readonly<Record<string, number>>;

/** What one input of a net takes. */
export interface InputType {
  readonly shape: Shape;
  /** Default `f32`. */
  readonly dtype?: DType;
  /** `clip`: constant over the sampling steps of a clip. Default `step`. */
  readonly rate?: 'clip' | 'step';
}

/**
 * A network as a function that is traced. The same net is traced anew for every size and every stack, so it
 * keeps nothing between calls.
 */
export interface Net {
  /** The first part of its parameters' names. */
  readonly name: string;
  /** Names that other tools give one of its layers; all without the net's name. */
  aliases?(layer: string): readonly string[];
  /** What a call of these sizes is fed. */
  signature(dims: Dims): Readonly<Record<string, InputType>>;
  /** The net's named outputs. `scope` is the root scope: the net adds its own name. */
  trace(scope: Scope, call: Call): Readonly<Record<string, Tensor>>;
}

/** Sizes for tracing every net when nothing is run: to list parameters and sites. */
export const nominalDims: Dims = { B: 1, F: 1, H: 64, W: 64, L: 8 };
