/** What a model makes of fixed small inputs: to see whether two models are one, and whether an adapter acts. */

import { compile, type Dims, type Model, standingFeeds, strengthsAt } from '@attune/core';
import { f32, i64, type NDArray, Rng, type Runtime, type Shape } from '@attune/engine';

export type Outputs = Readonly<Record<string, NDArray>>;

/** Small, and divisible as often as a UNet halves. */
const dims: Dims = { B: 1, F: 2, H: 16, W: 16, L: 8 };
const TIME = 500;

/** The nets that adapters act in, of those that a model has. */
export const probedNets = ({ nets }: Model): string[] =>
  ['text_encoder', 'unet'].filter((net) => net in nets);

/** Outputs of one net on inputs drawn by their names. */
export async function outputOf(model: Model, net: string, runtime: Runtime): Promise<Outputs> {
  const program = compile(model, { net, dims }, { runtime });
  try {
    const feeds: Record<string, NDArray> = {
      ...standingFeeds(model, program),
      ...strengthsAt(model, program, TIME),
    };
    for (const [name, { shape, dtype }] of program.inputs)
      feeds[name] ??= dtype === 'i64' ? ids(shape) : value(name, shape);
    const outputs = Object.entries(await program.run(feeds));
    return Object.fromEntries(outputs.map(([name, array]) => [`${net}.${name}`, array]));
  } finally {
    await program.release();
  }
}

const value = (name: string, shape: Shape): NDArray =>
  name === 'timestep'
    ? f32(new Float32Array(shape[0]).fill(TIME), shape)
    : Rng.of(11).fork(name).normals(shape);

/** Small ids, each another: every vocabulary has them. */
function ids(shape: Shape): NDArray {
  const size = shape.reduce((a, b) => a * b, 1);
  return i64(
    Array.from({ length: size }, (_, i) => i % 16),
    shape,
  );
}

/** The largest difference over all outputs, each relative to its largest entry of `want`. */
export function comparison(got: Outputs, want: Outputs): number {
  return Math.max(
    ...Object.entries(want).map(([name, { data }]) => {
      const other = got[name].data;
      let [far, top] = [0, 0];
      for (let i = 0; i < data.length; i++) {
        far = Math.max(far, Math.abs(Number(data[i]) - Number(other[i])));
        top = Math.max(top, Math.abs(Number(data[i])));
      }
      return top === 0 ? far : far / top;
    }),
  );
}
