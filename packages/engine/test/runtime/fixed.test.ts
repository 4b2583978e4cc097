/** Fixed values: stored once, and found again by what they depend on. */

import {
  copyFileSync,
  readdirSync,
  readFileSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';

import { describe, expect, test } from 'vitest';

import { fixedValues } from '../../src/graph/fixed.ts';
import {
  add,
  constant,
  exp,
  expand,
  f32,
  type F32Array,
  FixedValues,
  input,
  linear,
  mul,
  param,
  Program,
  reshape,
  slice,
  type Tensor,
  transpose,
  Weights,
} from '../../src/index.ts';
import {
  build,
  counting,
  feeds,
  file,
  fresh,
  results,
  scratch,
  stored,
  VALUES,
  weightsFile,
} from './fixed-scene.ts';

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
