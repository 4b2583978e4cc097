/** What programs hold: attention in pieces, 16-bit weights a segment at a time, sessions let go. */

import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import { peakBytes } from '../../src/graph/peak.ts';
import {
  add,
  ancestors,
  attention,
  emit,
  exp,
  f32,
  input,
  linear,
  mul,
  type NDArray,
  OrtRuntime,
  param,
  Program,
  type ProgramOptions,
  reshape,
  Rng,
  sum,
  type Tensor,
  toF32,
  toHalf,
  tracePosition,
  transpose,
  Weights,
  writeSafetensors,
} from '../../src/index.ts';
import { evaluate, relativeError } from '../../src/testing/index.ts';
import { readModel } from '../onnx/read.ts';

const none = { has: () => false };
const nothing = () => false;

const softmaxes = (y: Tensor) =>
  ancestors([y])
    .filter(({ op }) => op.name === 'softmax')
    .map(({ shape: own }) => own.join());

/** Anonymous memory of this process, bytes. */
const resident = () =>
  1024 * Number(/RssAnon:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))![1]);

/** Whether a mapped program of two values of so many MiB each, in two segments, keeps its sessions. */
function keeps(mebibytes: number, device: 'cpu' | 'cuda' = 'cpu'): boolean | undefined {
  const marks: number[] = [];
  const once = exp(input('x', [mebibytes, 2 ** 18]));
  marks.push(tracePosition());
  return new Program(
    { outputs: { y: exp(once) }, marks },
    {
      runtime: new OrtRuntime({ profile: 'mapped', device }),
      weights: Weights.fromArrays({}),
      segments: 'marks',
    },
  ).options.keep;
}

describe('peak', () => {
  const x = input('x', [256]); // 1 KiB as f32
  const a = exp(x);
  const b = exp(a);

  test('counts what nodes make until its last reader is done, not what is fed', () => {
    expect(peakBytes([a], none, nothing)).toBe(1024);
    expect(peakBytes([exp(b)], none, nothing)).toBe(2048);
    expect(peakBytes([add(exp(b), a)], none, nothing)).toBe(3072);
    expect(peakBytes([exp(b)], new Set([b]), nothing)).toBe(1024);
    expect(peakBytes([a, b, exp(b)], none, nothing)).toBe(3072);
  });

  test('counts casts of weights all along', () => {
    const y = exp(add(mul(x, param('one', [256])), param('two', [256])));
    expect(peakBytes([y], none, nothing)).toBe(2048);
    expect(peakBytes([y], none, (name) => name === 'two')).toBe(3072);
    expect(peakBytes([y], none, () => true)).toBe(4096);
  });
});

describe('attention', () => {
  const shape = [2, 4, 512, 8];
  const [q, k, v] = ['q', 'k', 'v'].map((name) => input(name, shape));
  const feeds = Object.fromEntries(
    ['q', 'k', 'v'].map((name) => [name, Rng.of(1).fork(name).normals(shape)]),
  );
  /** Bytes of scores and as many of probabilities. */
  const whole = 2 * 4 * 2 * 4 * 512 ** 2;

  test.each([
    [whole, ['2,4,512,512']],
    [whole / 2, ['1,4,512,512', '1,4,512,512']],
    [whole / 8, Array.from({ length: 8 }, () => '1,1,512,512')],
    [whole / 20, Array.from({ length: 8 }, () => ['1,1,204,512', '1,1,204,512', '1,1,104,512'])],
  ])('of at most %d bytes is cut no more than it has to be', async (most, pieces) => {
    const y = attention(q, k, v, { most });
    expect(softmaxes(y)).toEqual(pieces.flat());
    const { got, want } = await evaluate({ got: y, want: attention(q, k, v) }, feeds);
    expect(relativeError(got, want)).toBeLessThan(1e-6);
  });

  test('below 256 MB emits the nodes it always did', () => {
    const { model } = emit({
      outputs: [attention(q, k, v)],
      boundary: new Map(),
      weight: () => expect.unreachable(),
    });
    expect(readModel(model).nodes.map(({ type }) => type)).toEqual([
      'Transpose',
      'MatMul',
      'Mul',
      'Softmax',
      'MatMul',
    ]);
  });

  test('at any size holds no more than 256 MB of scores and probabilities', () => {
    for (const side of [64, 96, 128])
      for (const rows of [1, 2, 16]) {
        const big = ['q', 'k', 'v'].map((name) => input(name, [rows, 8, side ** 2, 40]));
        const y = attention(big[0], big[1], big[2]);
        const sizes = ancestors([y]).flatMap(({ op, size }) =>
          op.name === 'softmax' ? [8 * size] : [],
        );
        expect(Math.max(...sizes)).toBeLessThanOrEqual(256e6);
        expect(sizes.reduce((all, size) => all + size, 0)).toBe(8 * rows * 8 * side ** 4);
      }
  });

  // ONNX Runtime's arena keeps the most that a run has taken.
  test.runIf(process.platform === 'linux')('in pieces holds one piece at a time', async () => {
    const long = [1, 4, 2048, 8];
    const [a, b, c] = ['a', 'b', 'c'].map((name) => input(name, long));
    const fed = Object.fromEntries(
      ['a', 'b', 'c'].map((name) => [name, Rng.of(1).fork(name).normals(long)]),
    );
    const runtime = new OrtRuntime({ threads: 1 });
    const taken = async (most: number) => {
      const outputs = { y: sum(attention(a, b, c, { most })) };
      const program = new Program(
        { outputs, marks: [] },
        { runtime, weights: Weights.fromArrays({}) },
      );
      const before = resident();
      await program.run(fed);
      const after = resident();
      await program.release();
      return after - before;
    };
    await taken(8e6);
    expect(await taken(8e6)).toBeLessThan(24e6);
    expect(await taken(256e6)).toBeGreaterThan(60e6);
  });
});

describe('16-bit weights', () => {
  const width = 24;
  const names = ['one', 'two', 'three'];
  const drawn = new Map(
    names.map((name) => [name, toHalf(Rng.of(2).fork(name).normals([width, width]), 'f16')]),
  );
  const folder = mkdtempSync(join(tmpdir(), 'attune-memory-'));
  const file = (dtype: 'f16' | 'f32') => join(folder, `${dtype}.safetensors`);
  const runtime = new OrtRuntime({ threads: 1, profile: 'mapped' });
  const feeds = { x: Rng.of(3).normals([5, width]) };
  afterAll(() => runtime.release());
  beforeAll(() => {
    writeSafetensors(file('f16'), drawn);
    writeSafetensors(
      file('f32'),
      [...drawn].map(([name, array]) => [name, toF32(array)] as const),
    );
  });

  function program(dtype: 'f16' | 'f32', options: Partial<ProgramOptions> = {}): Program {
    const marks: number[] = [];
    const x = input('x', [5, width]);
    let y = mul(linear(x, param('one', [width, width])), 0.1);
    marks.push(tracePosition());
    y = add(mul(linear(y, param('two', [width, width])), 0.1), x);
    marks.push(tracePosition());
    y = add(linear(y, param('three', [width, width])), transpose(reshape(y, [width, 5]), [1, 0]));
    const weights = Weights.fromFile(file(dtype));
    return new Program({ outputs: { y }, marks }, { runtime, weights, ...options });
  }
  const results = async (made: Program): Promise<NDArray[]> => {
    const outs = [];
    for (let i = 0; i < 2; i++) outs.push((await made.run(feeds)).y);
    outs.push(...(await Promise.all([made.run(feeds), made.run(feeds)])).map(({ y }) => y));
    await made.release();
    return outs;
  };

  test('that are mapped are cut between marks; the same in 32 bits are not', async () => {
    const [halves, floats] = [program('f16'), program('f32')];
    expect([halves.segments.length, floats.segments.length]).toEqual([3, 1]);
    const [want] = await results(floats);
    for (const y of await results(halves)) expect(relativeError(y, want)).toBeLessThan(1e-6);
  });

  test('run the same with sessions that are let go after each run, one after another or at once', async () => {
    const want = await results(program('f16'));
    expect(await results(program('f16', { keep: false }))).toEqual(want);
  });

  test('keep their sessions up to 2 GiB of what these would hold', () => {
    expect([keeps(1024), keeps(1025), keeps(1025, 'cuda')]).toEqual([true, false, true]);
  });
});

test('values of a clip that only its own segments read are let go', async () => {
  const marks: number[] = [];
  const c = exp(input('c', [1], { rate: 'clip' }));
  marks.push(tracePosition());
  const d = exp(mul(c, 2));
  marks.push(tracePosition());
  const y = add(d, input('s', [1]));
  const program = new Program(
    { outputs: { y }, marks },
    {
      runtime: new OrtRuntime({ threads: 1 }),
      weights: Weights.fromArrays({}),
      segments: 'marks',
    },
  );
  const feeds = { c: f32([0], [1]), s: f32([1], [1]) };
  const clip = await program.clip(feeds);
  expect([...clip.values.keys()]).toEqual([d]);
  expect((await program.step(clip, feeds)).y.data[0]).toBeCloseTo(Math.exp(2) + 1, 4);
  await program.release();
});
