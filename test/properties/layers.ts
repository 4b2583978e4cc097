/** Layers under names that models have, as a model of their own, and what a layer of a known weight gives. */

import { conv, groupNorm, linear, type Model, type Net } from '@attune/core';
import { f32, type F32Array, type NDArray, Rng, toF32, Weights } from '@attune/engine';
import { expect } from 'vitest';

export type Layer =
  | { readonly kind: 'linear' | 'conv' | 'point'; readonly out: number; readonly into: number }
  | { readonly kind: 'norm'; readonly out: number };

/** Layers under names that models have. */
export const layers: Readonly<Record<string, Layer>> = {
  'unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q': {
    kind: 'linear',
    out: 8,
    into: 12,
  },
  'unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0': {
    kind: 'linear',
    out: 12,
    into: 8,
  },
  'unet.mid_block.attentions.0.proj_in': { kind: 'point', out: 6, into: 4 },
  'unet.up_blocks.1.resnets.2.conv1': { kind: 'conv', out: 6, into: 4 },
  'unet.up_blocks.1.resnets.2.norm1': { kind: 'norm', out: 8 },
  'text_encoder.text_model.encoder.layers.0.self_attn.q_proj': { kind: 'linear', out: 6, into: 6 },
  'text_encoder.text_model.encoder.layers.0.mlp.fc1': { kind: 'linear', out: 4, into: 9 },
};

export const sizeOf = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);
export const shapeOf = (layer: Layer): number[] =>
  layer.kind === 'norm'
    ? [layer.out]
    : [
        layer.out,
        layer.into,
        ...(layer.kind === 'linear' ? [] : layer.kind === 'conv' ? [3, 3] : [1, 1]),
      ];

/** Inputs that show a layer's weight: unit vectors, or one bright pixel a channel. */
export function probe(layer: Layer): F32Array {
  if (layer.kind === 'norm') return Rng.of(3).normals([1, layer.out, 2, 2]);
  const side = layer.kind === 'linear' ? [] : layer.kind === 'conv' ? [3, 3] : [1, 1];
  const shape = [layer.into, layer.into, ...side];
  const data = new Float32Array(sizeOf(shape));
  const area = sizeOf(side);
  for (let i = 0; i < layer.into; i++) data[(i * layer.into + i) * area + Math.floor(area / 2)] = 1;
  return f32(data, shape);
}

function netOf(name: string): Net {
  const own = Object.entries(layers).filter(([address]) => address.startsWith(`${name}.`));
  return {
    name,
    signature: () =>
      Object.fromEntries(own.map(([address, layer]) => [address, { shape: probe(layer).shape }])),
    trace: (root, { inputs }) =>
      Object.fromEntries(
        own.map(([address, layer]) => {
          const scope = root.at(...address.split('.'));
          const x = inputs[address];
          const y =
            layer.kind === 'linear'
              ? linear(scope, x, layer.out)
              : layer.kind === 'norm'
                ? groupNorm(scope, x, 2, 1e-5)
                : conv(scope, x, layer.out, {
                    kernel: layer.kind === 'conv' ? 3 : 1,
                    padding: layer.kind === 'conv' ? 1 : 0,
                  });
          return [`y.${address}`, y];
        }),
      ),
  };
}

export function base(rng: Rng): Model {
  const arrays = Object.entries(layers).flatMap(([address, layer]) => [
    [`${address}.weight`, rng.fork(address, 'w').normals(shapeOf(layer))] as const,
    [`${address}.bias`, rng.fork(address, 'b').normals([layer.out])] as const,
  ]);
  return {
    nets: { unet: netOf('unet'), text_encoder: netOf('text_encoder') },
    weights: Weights.fromArrays(Object.fromEntries(arrays)),
    adapters: [],
  };
}

export type Numbers = Float64Array;
export const numbers = (array: NDArray): Numbers => Float64Array.from(toF32(array).data);

/** What a layer gives for its probe. */
export function shown(layer: Layer, weight: Numbers, bias: Numbers): Numbers {
  const x = numbers(probe(layer));
  if (layer.kind === 'norm') {
    const [groups, area] = [2, 4];
    const size = x.length / groups;
    return x.map((value, i) => {
      const own = x.subarray(Math.floor(i / size) * size, (Math.floor(i / size) + 1) * size);
      const mean = own.reduce((a, b) => a + b, 0) / size;
      const spread = own.reduce((a, b) => a + (b - mean) ** 2, 0) / size;
      const c = Math.floor(i / area);
      return ((value - mean) / Math.sqrt(spread + 1e-5)) * weight[c] + bias[c];
    });
  }
  const { out, into } = layer;
  const area = sizeOf(shapeOf(layer).slice(2));
  const y = new Float64Array(into * out * area);
  for (let i = 0; i < into; i++)
    for (let o = 0; o < out; o++)
      for (let k = 0; k < area; k++)
        // A convolution shows its kernel turned round.
        y[(i * out + o) * area + k] = weight[(o * into + i) * area + (area - 1 - k)] + bias[o];
  return y;
}

/** The largest difference relative to the largest number. */
export function far(got: NDArray, want: Numbers): number {
  const values = numbers(got);
  expect(values.length).toBe(want.length);
  let [worst, most] = [0, 0];
  want.forEach((value, i) => {
    worst = Math.max(worst, Math.abs(value - values[i]));
    most = Math.max(most, Math.abs(value));
  });
  return worst / most;
}
