/** Fixed values: stored once, found again by what they depend on, and never worth a failure. */

import { execFile, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';

import { afterAll, describe, expect, test } from 'vitest';

import { fixedValues } from '../../src/graph/fixed.ts';
import {
  add,
  constant,
  conv2d,
  exp,
  expand,
  f32,
  type F32Array,
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
  slice,
  square,
  sum,
  type Tensor,
  toHalf,
  tracePosition,
  transpose,
  Weights,
  writeSafetensors,
} from '../../src/index.ts';
import { cacheFolder } from '../../src/weights/cache-folder.ts';

const scratch = mkdtempSync(join(tmpdir(), 'attune-fixed-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));
let folders = 0;
const fresh = (): string => join(scratch, `cache-${folders++}`);

/** Every value file of a cache. */
const stored = (folder: string): string[] =>
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

function weightsFile(name: string, seed = 1): string {
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
const file = weightsFile('weights.safetensors');

/** A convolution, whose backward pass wants a flipped kernel, and a changed weight of a frozen low-rank product. */
function build(by = 0.5) {
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
const VALUES = 2;

const feeds = {
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
async function results({
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
function counting(): { readonly runtime: Runtime; readonly computed: () => number } {
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

const found = (...outputs: readonly Tensor[]) => [...fixedValues(outputs, new Set())];

describe('what is stored', () => {
  const w = param('w', [512, 512]);
  const x = input('x', [4, 512]);
  const big = mul(w, 2);

  test('is what others read, under its own shape', () => {
    expect(found(linear(x, big))).toEqual([[big, big]]);
    const seen = reshape(big, [256, 1024]);
    expect(found(add(seen, input('z', [256, 1024])))).toEqual([[seen, big]]);
  });

  test('is no weight itself, nothing small, nothing that changes, no output', () => {
    expect(found(linear(x, w))).toEqual([]);
    expect(found(linear(x, reshape(w, [512, 512])))).toEqual([]);
    expect(found(linear(x, transpose(w, [1, 0])))).toEqual([]);
    expect(found(mul(input('z', [8, 512, 512]), expand(w, [8, 512, 512])))).toEqual([]);
    expect(found(linear(x, slice(big, 0, 0, 256)))).toEqual([]);
    expect(found(linear(x, mul(w, param('live', [], { live: true }))))).toEqual([]);
    expect(found(big)).toEqual([]);
    expect(found(mul(x, mul(constant(f32(new Float32Array(512), [512])), 2)))).toEqual([]);
  });

  test('ends where values are fed', () => {
    const h = linear(x, big);
    expect([...fixedValues([exp(h)], new Set([h]))]).toEqual([]);
  });
});

describe('results', () => {
  test.each(['mapped', 'prepacked'] as const)('%s, are the same bits', async (profile) => {
    const folder = fresh();
    const want = await results({ folder: undefined, profile });
    expect(await results({ folder, profile })).toEqual(want);
    expect(stored(folder)).toHaveLength(VALUES);
    expect(await results({ folder, profile })).toEqual(want);
  });

  test.each([
    ['none', 1],
    ['step', 'marks'],
    ['segment', 'marks'],
    ['segment', 1],
  ] as const)('of remat %s in %s segments are the same bits', async (remat, segments) => {
    const setting = { remat, segments };
    const folder = fresh();
    const want = await results({ folder: undefined, ...setting });
    expect(await results({ folder, ...setting })).toEqual(want);
    expect(stored(folder)).toHaveLength(VALUES);
  });

  test('of weights in memory are stored by their bytes', async () => {
    const folder = fresh();
    const { runtime, computed } = counting();
    const arrays = Object.fromEntries(
      [...Weights.fromFile(file).names()].map((name) => [
        name,
        Weights.fromFile(file).entry(name).load(),
      ]),
    );
    const run = async (): Promise<F32Array> => {
      const weights = Weights.fromArrays(arrays);
      const program = new Program(build(), { runtime, weights, fixed: new FixedValues(folder) });
      const { y } = await program.run(feeds);
      await program.release();
      return y as F32Array;
    };
    const want = await run();
    const before = computed();
    expect((await run()).data).toEqual(want.data);
    expect(computed()).toBe(before);
    await results({ folder, runtime });
    expect(computed()).toBe(VALUES);
  });
});

describe('the fixed part runs once', () => {
  test('for all runs, programs and threads', async () => {
    const folder = fresh();
    const { runtime, computed } = counting();
    const first = await results({ folder, runtime });
    expect(computed()).toBe(VALUES);
    for (const remat of ['none', 'segment'] as const)
      expect(await results({ folder, runtime, remat, segments: 'marks' })).toEqual(
        await results({ folder: undefined, remat, segments: 'marks' }),
      );
    const fork = runtime.fork();
    expect(await results({ folder, runtime: fork })).toEqual(first);
    await fork.release();
    expect(computed()).toBe(VALUES);
  });

  test('also where two programs want it at the same time', async () => {
    const fixed = new FixedValues(fresh());
    const { runtime, computed } = counting();
    const weights = Weights.fromFile(file);
    const programs = [1, 2].map(() => new Program(build(), { runtime, weights, fixed }));
    const [one, two] = await Promise.all(programs.map((program) => program.run(feeds)));
    expect(one.y.data).toEqual(two.y.data);
    expect(computed()).toBe(VALUES - 1); // forward passes need no flipped kernel
    await runtime.release();
  });
});

describe('a value is found by what it depends on', () => {
  test('another graph or other weights make others, a copy makes none', async () => {
    const folder = fresh();
    const { runtime, computed } = counting();
    const first = await results({ folder, runtime });
    const other = await results({ folder, runtime, by: 0.25 });
    expect(computed()).toBe(VALUES + 1);
    expect(other.y).not.toBe(first.y);

    const copy = join(scratch, 'copy.safetensors');
    copyFileSync(file, copy);
    expect(await results({ folder, runtime, weights: copy })).toEqual(first);
    expect(computed()).toBe(VALUES + 1);

    // The same place, size and date, other numbers.
    const { atime, mtime } = statSync(copy);
    copyFileSync(weightsFile('others.safetensors', 2), copy);
    utimesSync(copy, atime, mtime);
    const changed = await results({ folder, runtime, weights: copy });
    expect(computed()).toBe(2 * VALUES + 1);
    expect(changed).toEqual(await results({ folder: undefined, weights: copy }));
  });

  test('weights are read once for each state of their file', async () => {
    const folder = fresh();
    // Until then its times could not tell a second change.
    await new Promise((resolve) => setTimeout(resolve, statSync(file).ctimeMs + 2100 - Date.now()));
    const want = await results({ folder });
    const notes = readdirSync(join(folder, 'hashes'), { recursive: true, encoding: 'utf8' })
      .map((name) => join(folder, 'hashes', name))
      .filter((path) => statSync(path).isFile());
    // The four weights that the values are made from, and the values as they were read back.
    expect(notes).toHaveLength(4 + VALUES);
    const dates = () => notes.map((path) => statSync(path, { bigint: true }).mtimeNs);
    const before = dates();
    expect(await results({ folder })).toEqual(want);
    expect(dates()).toEqual(before);

    for (const path of notes) writeFileSync(path, 'not a hash');
    const { runtime, computed } = counting();
    expect(await results({ folder, runtime })).toEqual(want);
    expect(computed()).toBe(0);
    for (const path of notes) expect(readFileSync(path, 'latin1')).toMatch(/\n[0-9a-f]{64}$/);
  });
});

describe('a damaged file is recognised and written again:', () => {
  test.each<[string, (path: string, other: string) => void]>([
    ['cut short', (path) => truncateSync(path, statSync(path).size - 4)],
    ['empty', (path) => truncateSync(path, 0)],
    ['no safetensors', (path) => writeFileSync(path, 'hello, world')],
    [
      'one bit',
      (path) => {
        const bytes = readFileSync(path);
        bytes[bytes.length - 1000] ^= 1;
        writeFileSync(path, bytes);
      },
    ],
    ['another value', (path, other) => copyFileSync(other, path)],
    ['deleted', (path) => rmSync(path)],
  ])('%s', async (_, damage) => {
    const folder = fresh();
    const want = await results({ folder });
    const files = stored(folder);
    const sound = files.map((path) => readFileSync(path));
    damage(files[0], files[1]);
    const { runtime, computed } = counting();
    expect(await results({ folder, runtime })).toEqual(want);
    expect(computed()).toBe(1);
    expect(
      stored(folder).map((path) => readFileSync(path).equals(sound[files.indexOf(path)])),
    ).toEqual(files.map(() => true));
  });
});

describe('where the folder refuses', () => {
  const want = results({ folder: undefined });

  test('a file in its place: values stay in their graphs', async () => {
    const folder = join(scratch, 'occupied');
    writeFileSync(folder, '');
    const { runtime, computed } = counting();
    expect(await results({ folder, runtime })).toEqual(await want);
    expect(computed()).toBe(0); // no hash can be kept, so nothing is looked for
  });

  test.skipIf(process.getuid?.() === 0)('a read-only folder: nothing is written', async () => {
    const folder = fresh();
    mkdirSync(folder, { mode: 0o500 });
    expect(await results({ folder })).toEqual(await want);
    expect(readdirSync(folder)).toEqual([]);
    chmodSync(folder, 0o700);
  });

  test('a folder that was filled before and is read-only now is still read', async () => {
    const folder = fresh();
    await results({ folder });
    const [lost] = stored(folder);
    rmSync(lost);
    // A file where a folder would be made again.
    rmSync(dirname(lost), { recursive: true, force: true });
    writeFileSync(dirname(lost), '');
    const { runtime, computed } = counting();
    expect(await results({ folder, runtime })).toEqual(await want);
    expect(computed()).toBe(1);
  });
});

/** What another process prints: its results. */
const child = `
const { FixedValues, OrtRuntime, Program, Rng, Weights, input, linear, mul, param } = await import(process.argv[1]);
const [, , file, folder] = process.argv;
const outputs = { y: linear(input('x', [1, 512]), mul(param('square', [512, 512]), 2)) };
const runtime = new OrtRuntime({ threads: 1, profile: 'mapped' });
const program = new Program({ outputs, marks: [] }, { runtime, weights: Weights.fromFile(file), fixed: new FixedValues(folder || undefined) });
const { y } = await program.run({ x: Rng.of(1).normals([1, 512]) });
console.log(Buffer.from(y.data.buffer).toString('hex'));
`;
const engine = new URL('../../dist/index.js', import.meta.url).href;
const args = (folder: string) => ['--input-type=module', '-e', child, engine, file, folder];

describe('other processes', () => {
  test('at the same time get the same numbers and leave one file', async () => {
    const folder = fresh();
    const run = promisify(execFile);
    const [alone] = [(await run(process.execPath, args(''))).stdout];
    const all = await Promise.all([1, 2, 3].map(() => run(process.execPath, args(folder))));
    for (const { stdout } of all) expect(stdout).toBe(alone);
    expect(stored(folder)).toHaveLength(1);
    expect(readdirSync(folder).toSorted()).toEqual(['hashes', 'values']);
  });

  test.skipIf(process.platform === 'win32')('on a full disk end well', () => {
    const folder = fresh();
    const alone = spawnSync(process.execPath, args(''), { encoding: 'utf8' });
    // No file may grow beyond 128 KiB.
    const full = spawnSync(
      'sh',
      ['-c', 'ulimit -f 256; exec "$0" "$@"', process.execPath, ...args(folder)],
      { encoding: 'utf8' },
    );
    expect(full.stderr).toBe('');
    expect(full.stdout).toBe(alone.stdout);
    expect(stored(folder)).toEqual([]);
    expect(readdirSync(folder).filter((name) => name.startsWith('staged'))).toEqual([]);
  });
});

test.each([
  [{ ATTUNE_CACHE: '/a/b', XDG_CACHE_HOME: '/c' }, 'linux', '/a/b'],
  [{ ATTUNE_CACHE: '' }, 'linux', undefined],
  [{ XDG_CACHE_HOME: '/c' }, 'linux', join('/c', 'attune')],
  [{ LOCALAPPDATA: '/local' }, 'win32', join('/local', 'attune')],
  [{}, 'win32', undefined],
] as const)('the cache folder for %j on %s', (env, platform, want) => {
  expect(cacheFolder(env, platform)).toBe(want);
});

test('the cache folder lies in the home folder otherwise', () => {
  const end = join('.cache', 'attune');
  expect(cacheFolder({ XDG_CACHE_HOME: 'relative' }, 'linux')?.endsWith(end)).toBe(true);
  expect(cacheFolder({}, 'darwin')?.endsWith(join('Library', 'Caches', 'attune'))).toBe(true);
});
