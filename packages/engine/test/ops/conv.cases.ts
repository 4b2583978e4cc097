import type { Shape } from '../../src/index.ts';
import * as ops from '../../src/ops/conv.ts';
import { type Case, frozen, type Rows } from './case.ts';
import * as reference from './reference.ts';

type Kernel = readonly [number, number, number, number];

interface Layer {
  readonly x: Shape;
  readonly w: Kernel;
  readonly stride?: number;
  readonly pads?: readonly [number, number, number, number];
  readonly label?: string;
}

const layers: readonly Layer[] = [
  { x: [2, 3, 5, 6], w: [4, 3, 3, 3], pads: [1, 1, 1, 1] },
  { x: [1, 2, 4, 5], w: [3, 2, 3, 3] },
  { x: [2, 5, 3, 4], w: [3, 5, 1, 1] },
  { x: [2, 3, 7, 8], w: [4, 3, 3, 3], stride: 2, pads: [1, 1, 1, 1] },
  { x: [1, 2, 8, 7], w: [3, 2, 3, 3], stride: 2 },
  { x: [2, 3, 6, 8], w: [4, 3, 3, 3], stride: 2, pads: [0, 0, 1, 1], label: 'right and bottom' },
  { x: [1, 2, 5, 4], w: [3, 2, 3, 3], pads: [2, 0, 1, 3], label: 'lopsided' },
  { x: [2, 5, 5, 4], w: [3, 5, 1, 1], stride: 2 },
  { x: [2, 3, 8, 12], w: [5, 3, 4, 4], stride: 4, label: 'patches' },
  { x: [1, 2, 8, 9], w: [2, 2, 3, 2], stride: 3, label: 'rest beyond the last window' },
  { x: [1, 1, 3, 7], w: [2, 1, 1, 5], pads: [0, 2, 0, 2] },
  { x: [2, 2, 3, 3], w: [3, 2, 1, 1], pads: [1, 1, 1, 1], label: 'padding wider than the kernel' },
  { x: [1, 3, 2, 2], w: [1, 3, 2, 2], label: 'one window' },
];

const attrsOf = ({ stride = 1, pads = [0, 0, 0, 0] }: Layer): ops.ConvAttrs => ({ stride, pads });

const titleOf = (layer: Layer): string =>
  [
    layer.label,
    layer.stride && `stride ${layer.stride}`,
    layer.pads && `pads ${layer.pads.join(' ')}`,
  ]
    .filter(Boolean)
    .join(', ');

function forward(layer: Layer, still: boolean): Case {
  const attrs = attrsOf(layer);
  return {
    in: still ? [layer.x, frozen(layer.w), frozen([layer.w[0]])] : [layer.x, layer.w, [layer.w[0]]],
    build: (x, w, b) => ops.conv2d(x, w, b, { stride: attrs.stride, padding: attrs.pads }),
    want: (x, w, b) => reference.conv(x, w, b, attrs),
    label: titleOf(layer),
  };
}

/** The shape of a layer's output. */
const outOf = ({ x, w, ...rest }: Layer): Shape => {
  const { stride, pads } = attrsOf({ x, w, ...rest });
  const span = (i: number): number =>
    Math.floor((x[i + 2] + pads[i] + pads[i + 2] - w[i + 2]) / stride) + 1;
  return [x[0], w[0], span(0), span(1)];
};

function inputGrad(layer: Layer, still: boolean): Case {
  const attrs = attrsOf(layer);
  return {
    in: [outOf(layer), still ? frozen(layer.w) : layer.w],
    build: (dy, w) => ops.convInputGrad(dy, w, layer.x, attrs),
    want: (dy, w) => reference.convInputGrad(dy, w, layer.x, attrs),
    label: titleOf(layer),
  };
}

function weightGrad(layer: Layer): Case {
  const attrs = attrsOf(layer);
  return {
    in: [layer.x, outOf(layer)],
    build: (x, dy) => ops.convWeightGrad(x, dy, layer.w, attrs),
    want: (x, dy) => reference.convWeightGrad(x, dy, layer.w, attrs),
    label: titleOf(layer),
  };
}

const [first] = layers;

export const convCases: Rows<typeof ops> = {
  conv2d: [
    {
      in: [first.x, first.w],
      build: (x, w) => ops.conv2d(x, w, undefined, { padding: 1 }),
      want: (x, w) => reference.conv(x, w, undefined, attrsOf(first)),
      label: 'no bias, one number for all sides',
    },
    ...layers.map((layer) => forward(layer, false)),
    ...layers.map((layer) => forward(layer, true)),
  ],
  convInputGrad: [
    ...layers.map((layer) => inputGrad(layer, false)),
    ...layers.map((layer) => inputGrad(layer, true)),
  ],
  convWeightGrad: layers.map(weightGrad),
};
