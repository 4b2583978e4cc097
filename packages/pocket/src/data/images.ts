/** Single frames of the training world, for the autoencoder. */

import type { DataSource } from '@attune/core';
import type { Rng } from '@attune/engine';

import { FRAMES } from '../world/motion.ts';
import { AREA, SIDE } from '../world/paint.ts';
import { renderFrame } from '../world/render.ts';
import { sampleScene } from '../world/scene.ts';

/** `pixels` [N, 3, 64, 64] in [-1, 1]: one random frame of one random scene per id. */
export const images = (): DataSource => ({
  dims: { F: 1, H: SIDE, W: SIDE },
  batch: (ids, rng) => {
    const data = new Float32Array(ids.length * 3 * AREA);
    ids.forEach((id, k) => data.set(frameOf(rng.fork(id)), k * 3 * AREA));
    return { pixels: { dtype: 'f32', shape: [ids.length, 3, SIDE, SIDE], data } };
  },
});

function frameOf(rng: Rng): Float32Array {
  const scene = sampleScene(rng);
  return renderFrame(scene, rng.int(FRAMES)).pixels.map((value) => 2 * value - 1);
}
