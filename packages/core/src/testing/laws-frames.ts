/** The law of frames: an adapter that does not declare to mix them treats each by itself. */

import type { Model } from '@attune/core';
import { type F32Array, type NDArray, Rng } from '@attune/engine';
import { relativeError } from '@attune/engine/testing';

import { type Arrays, type Bench, reordered } from './bench.ts';
import { fails, holds, type Law, within } from './law.ts';

const frames: Law = {
  name: 'frames are independent unless it declares to mix them',
  check: async ({ bench, make }) => {
    const adapter = make();
    const { B, F } = bench.dims;
    const model = bench.moved(adapter);
    const leak = await leakage(bench, model);
    if (adapter.mixesFrames)
      return leak > 1e-6
        ? holds(`mixes: one frame moves the others by ${leak.toExponential(1)}`)
        : fails('declared to mix frames, but no frame depends on another');
    if (leak > 1e-6)
      return fails(`one frame moves the others by ${leak.toExponential(1)}: declare mixesFrames`);
    const order = Array.from({ length: B * F }, (_, row) => row - (row % F) + ((row + 1) % F));
    const plain = await moving(bench, model, (rows) => rows);
    const turned = await moving(bench, model, (rows) => reordered(rows, order));
    const error = Math.max(
      ...Object.entries(plain).map(([name, array]) =>
        relativeError(turned[name], reordered(array, order)),
      ),
    );
    return within(error, 1e-5, 'frames in another order change by');
  },
};

/** The outputs after `change` on every input that has a row per frame. */
const moving = (
  bench: Bench,
  model: Model,
  change: (rows: NDArray) => NDArray,
): Promise<Arrays> => {
  const rows = bench.dims.B * bench.dims.F;
  return bench.with(model, (program) => {
    const feeds = bench.feeds(model, program);
    for (const [name, t] of program.inputs)
      if (t.op.name === 'input' && t.dtype === 'f32' && t.shape[0] === rows)
        feeds[name] = change(feeds[name]);
    return program.run(feeds);
  });
};

/** How far the other frames go when the last frame of each clip is another. */
async function leakage(bench: Bench, model: Model): Promise<number> {
  const { F } = bench.dims;
  const replaced = ({ shape, data }: NDArray): NDArray => {
    const fresh = Rng.of(23).normals(shape).data;
    const size = data.length / shape[0];
    return {
      dtype: 'f32',
      shape,
      data: Float32Array.from(data as Float32Array, (value, i) =>
        Math.floor(i / size) % F === F - 1 ? fresh[i] : value,
      ),
    };
  };
  const plain = await moving(bench, model, (rows) => rows);
  const other = await moving(bench, model, replaced);
  let far = 0;
  for (const [name, { shape, data }] of Object.entries(plain)) {
    const size = data.length / shape[0];
    const after = (other[name] as F32Array).data;
    (data as Float32Array).forEach((value, i) => {
      if (Math.floor(i / size) % F !== F - 1) far = Math.max(far, Math.abs(value - after[i]));
    });
  }
  return far;
}

export const frameLaws = [frames];
