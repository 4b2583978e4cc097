/** A program with two fixed values on weights of a file, run with a cache, and what it leaves there. */

import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll } from 'vitest';

import {
  add,
  conv2d,
  f32,
  FixedValues,
  input,
  linear,
  matmul,
  mul,
  type NDArray,
  OrtRuntime,
  param,
  type Profile,
  Program,
  type Remat,
  reshape,
  Rng,
  type Runtime,
  type Shape,
  silu,
  square,
  sum,
  toHalf,
  tracePosition,
  transpose,
  Weights,
  writeSafetensors,
} from '../../src/index.ts';

export const scratch = mkdtempSync(join(tmpdir(), 'attune-fixed-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));
let folders = 0;
export const fresh = (): string => join(scratch, `cache-${folders++}`);

/** Every value file of a cache. */
export const stored = (folder: string): string[] =>
  existsSync(folder)
    ? readdirSync(folder, { recursive: true, encoding: 'utf8' })
        .filter((name) => name.endsWith('.safetensors'))
        .toSorted()
        .map((name) => join(folder, name))
    : [];

// Just above the least size that is stored.
const [width, side] = [192, 3];
const shapes: Readonly<Record<string, Shape>> = {
  kernel: [width, width, 3, 3],
  square: [512, 512],
  a: [512, 4],
  b: [4, 512],
  into: [width * side * side, 512],
};

export function weightsFile(name: string, seed = 1): string {
  const file = join(scratch, name);
  const rng = Rng.of(seed);
  const arrays = Object.entries(shapes).map(([key, shape]): [string, NDArray] => {
    const { data } = rng.fork(key).normals(shape);
    const array = f32(
      data.map((value) => value / Math.sqrt(shape.at(-1)! * 3)),
      shape,
    );
    return [key, key === 'kernel' ? toHalf(array, 'f16') : array];
  });
  writeSafetensors(file, arrays);
  return file;
}
export const file = weightsFile('weights.safetensors');

/** A convolution, whose backward pass wants a flipped kernel, and a changed weight of a frozen low-rank product. */
export function build(by = 0.5) {
  const marks: number[] = [];
  const x = input('x', [1, width, side, side]);
  const h = silu(conv2d(x, param('kernel', shapes.kernel), undefined, { padding: 1 }));
  marks.push(tracePosition());
  const gain = param('gain', [512], { live: true });
  const product = matmul(param('a', shapes.a), param('b', shapes.b));
  const whole = add(param('square', shapes.square), mul(product, by));
  const changed = mul(whole, sum(square(whole), [1], { keep: true }));
  const u = mul(linear(reshape(h, [1, -1]), transpose(param('into', shapes.into), [1, 0])), gain);
  marks.push(tracePosition());
  return { outputs: { y: linear(u, changed) }, marks };
}
/** The flipped kernel and the changed weight. */
export const VALUES = 2;

export const feeds = {
  x: Rng.of(7).normals([1, width, side, side]),
  gain: Rng.of(8).normals([512]),
};
const cotangent = { y: Rng.of(9).normals([1, 512]) };

interface Setting {
  readonly folder: string | undefined;
  readonly profile?: Profile;
  readonly remat?: Remat;
  readonly segments?: number | 'marks';
  readonly weights?: string;
  readonly by?: number;
  readonly runtime?: Runtime;
}

/** Outputs and gradients, as bytes, by one program of its own. */
export async function results({
  folder,
  profile = 'mapped',
  remat = 'none',
  segments = 1,
  weights = file,
  by,
  runtime = new OrtRuntime({ threads: 1, profile }),
}: Setting): Promise<Record<string, string>> {
  const program = new Program(build(by), {
    runtime,
    weights: Weights.fromFile(weights),
    segments,
    fixed: new FixedValues(folder),
  });
  const { outputs, grads } = await program.sweep(['x', 'gain'], remat).run(feeds, cotangent);
  await program.release();
  const all = Object.entries({ ...outputs, ...grads });
  return Object.fromEntries(all.map(([name, array]) => [name, digest(array)]));
}
const digest = ({ data }: NDArray): string =>
  createHash('sha256')
    .update(data as Float32Array)
    .digest('hex');

/** A runtime that counts the models that are run without being fed: those of fixed values. */
export function counting(): { readonly runtime: Runtime; readonly computed: () => number } {
  let runs = 0;
  const count = (inner: Runtime): Runtime => ({
    profile: inner.profile,
    threads: inner.threads,
    device: inner.device,
    fork: () => count(inner.fork()),
    release: () => inner.release(),
    load: async (model, profile) => {
      const session = await inner.load(model, profile);
      return {
        run: (given, names) => {
          if (Object.keys(given).length === 0) runs++;
          return session.run(given, names);
        },
        release: () => session.release(),
      };
    },
  });
  return {
    runtime: count(new OrtRuntime({ threads: 1, profile: 'mapped' })),
    computed: () => runs,
  };
}
