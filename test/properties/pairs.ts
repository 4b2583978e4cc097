/** Plain LoRAs at random layers of a UNet and a text encoder, and the backbone with what they make of its weights. */

import { loadModel, type Model } from '@attune/core';
import { f32, type NDArray, type Rng, toF32, Weights } from '@attune/engine';
import { relativeError } from '@attune/engine/testing';
import { expect } from 'vitest';

import { product } from './algorithms.ts';
import { numbers, type Numbers } from './layers.ts';
import { drawn, effect, modelFolder, opened, randomUNet, type Tensors } from './wholes.ts';

/** Modules at random layers: two matrices each, and the change of the weight before any scale. */
export interface Pair {
  readonly address: string;
  readonly down: NDArray;
  readonly up: NDArray;
  readonly rank: number;
  readonly delta: Numbers;
}

function pairs(rng: Rng, weights: Tensors, rankOf: RankOf): Pair[] {
  const layers = Object.entries(weights).filter(
    ([name, { shape }]) => shape.length > 1 && !name.includes('embeddings'),
  );
  const some = layers.filter(([name]) => rng.fork('in', name).uniform() < 0.4);
  return some.map(([name, { shape }]) => {
    const own = rng.fork(name);
    const [out, ...into] = shape;
    const rank = rankOf(name.replace(/\.weight$/, ''), own);
    const down = drawn(own, 'down', [rank, ...into]);
    const up = drawn(own, 'up', [out, rank, ...into.slice(1).map(() => 1)]);
    const delta = product(numbers(up), numbers(down), out, rank);
    return { address: name.replace(/\.weight$/, ''), down, up, rank, delta };
  });
}

/** The backbone with W + scale · ΔW in the place of each W. */
function merged(model: Model, made: readonly (readonly [Pair, scale: number])[]): Model {
  const changed = made.map(([{ address, delta }, scale]) => {
    const { shape, data } = toF32(model.weights.entry(`${address}.weight`).load());
    return [
      `${address}.weight`,
      f32(
        data.map((v, i) => v + scale * delta[i]),
        shape,
      ),
    ] as const;
  });
  const weights = Weights.fromArrays(Object.fromEntries(changed));
  return { ...model, weights: Weights.overlay(model.weights, weights) };
}

/** The stack of a file and the backbone of its merged weights do the same, and not what the backbone does. */
export async function actsAs(
  path: string,
  backbone: string,
  made: readonly (readonly [Pair, number])[],
) {
  const base = await loadModel(backbone);
  const [stack, truth] = [await opened(backbone, { use: 'lora', from: path }), merged(base, made)];
  for (const net of ['unet', 'text_encoder']) {
    const [got, want, before] = await Promise.all(
      [stack, truth, base].map((model) => effect(model, net)),
    );
    expect(relativeError(got, want)).toBeLessThan(1e-5);
    if (made.some(([{ address }]) => address.startsWith(net)))
      expect(relativeError(before, want)).toBeGreaterThan(1e-3);
  }
}

/** The rank of a module at an address, drawn or told. */
type RankOf = (address: string, rng: Rng) => number;

/** A UNet and a text encoder in a folder, and modules on some of their layers. */
export async function scene(name: string, rng: Rng, rankOf: RankOf = (_, own) => 1 + own.int(3)) {
  const { attends, layers, config } = randomUNet(rng.fork('unet'));
  const parts = { unet: config, text_encoder: true } as const;
  const { path, weights } = await modelFolder(name, rng.fork('weights'), parts);
  return { attends, layers, backbone: path, made: pairs(rng.fork('modules'), weights, rankOf) };
}
