/** Layers as functions of a scope, with PyTorch's parameter names. */

import {
  add,
  conv2d,
  gather,
  groupNorm as groupNormOf,
  linear as linearOf,
  mul,
  normalize,
  reshape,
  swap,
  type Tensor,
} from '@attune/engine';

import { type Init, normal, ones, uniform, zeros } from './init.ts';
import type { Scope } from './scope.ts';

/** x [… in] → [… out]. */
export function linear(
  scope: Scope,
  x: Tensor,
  out: number,
  { bias = true, init = uniform(x.dim(-1)) }: { bias?: boolean; init?: Init } = {},
): Tensor {
  const weight = scope.param('weight', [out, x.dim(-1)], init);
  return scope.layer({
    type: 'linear',
    x,
    weight,
    ...(bias ? { bias: scope.param('bias', [out], init) } : {}),
    apply: (w, b) => linearOf(x, w, b),
  });
}

export interface ConvOptions {
  readonly kernel?: number;
  readonly stride?: number;
  /** All sides, or [top, left, bottom, right]. Default: (kernel − 1) / 2. */
  readonly padding?: number | readonly [number, number, number, number];
  readonly bias?: boolean;
  readonly init?: Init;
}

/** x [N, in, H, W] → [N, out, H′, W′]; 3 × 3 by default. */
export function conv(
  scope: Scope,
  x: Tensor,
  out: number,
  {
    kernel = 3,
    stride = 1,
    padding = (kernel - 1) / 2,
    bias = true,
    init = uniform(x.dim(1) * kernel * kernel),
  }: ConvOptions = {},
): Tensor {
  const channels = x.dim(1);
  const weight = scope.param('weight', [out, channels, kernel, kernel], init);
  return scope.layer({
    type: 'conv',
    x,
    weight,
    ...(bias ? { bias: scope.param('bias', [out], init) } : {}),
    apply: (w, b) => conv2d(x, w, b, { stride, padding }),
  });
}

/** Group normalisation of x [N, C, …]. */
export function groupNorm(scope: Scope, x: Tensor, groups: number, eps: number): Tensor {
  const channels = [x.dim(1)];
  return scope.layer({
    type: 'norm',
    x,
    weight: scope.param('weight', channels, ones),
    bias: scope.param('bias', channels, zeros),
    apply: (w, b) => groupNormOf(x, groups, w, b!, eps),
  });
}

/** Layer normalisation of x over its last axis. */
export function layerNorm(scope: Scope, x: Tensor, eps = 1e-5): Tensor {
  const channels = [x.dim(-1)];
  const centred = normalize(x, eps);
  return scope.layer({
    type: 'norm',
    x,
    weight: scope.param('weight', channels, ones),
    bias: scope.param('bias', channels, zeros),
    apply: (w, b) => add(mul(centred, w), b!),
  });
}

/** Rows of a table [count, size] by i64 ids of any shape. */
export function embedding(
  scope: Scope,
  ids: Tensor,
  count: number,
  size: number,
  look: (table: Tensor, ids: Tensor) => Tensor = gather,
): Tensor {
  return scope.layer({
    type: 'embedding',
    x: ids,
    weight: scope.param('weight', [count, size], normal(0.02)),
    apply: (w) => look(w, ids),
  });
}

/** [N, C, H, W] → [N, H·W, C]. */
export const toTokens = (x: Tensor): Tensor => swap(reshape(x, [x.dim(0), x.dim(1), -1]));

/** [N, H·W, C] → [N, C, H, W]. */
export const toImage = (x: Tensor, height: number, width: number): Tensor =>
  reshape(swap(x), [x.dim(0), x.dim(2), height, width]);
