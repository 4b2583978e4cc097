/** Results and gradients do not depend on how a graph is cut, split or recomputed. */

import { beforeAll, describe, expect, test } from 'vitest';

import {
  add,
  cast,
  type Cotangents,
  constant,
  exp,
  type F32Array,
  f32,
  grad,
  input,
  linear,
  mul,
  type NDArray,
  OrtRuntime,
  param,
  type PlanOptions,
  Program,
  type Remat,
  sum,
  type Tape,
  tracePosition,
  Weights,
  zeros,
} from '../../src/index.ts';
import { evaluate, relativeError } from '../../src/testing/index.ts';
import * as net from './network.ts';

const runtime = new OrtRuntime({ threads: 1 });
const limit = 1e-5;

const scaled = ({ data, shape }: NDArray, by: number): F32Array =>
  f32(
    Float32Array.from(data as Float32Array, (value) => value * by),
    shape,
  );
const plus = (a: NDArray, b: NDArray): F32Array =>
  f32(
    Float32Array.from(a.data as Float32Array, (value, i) => value + Number(b.data[i])),
    a.shape,
  );

interface Result {
  readonly last: NDArray;
  readonly grads: Readonly<Record<string, NDArray>>;
}

/** The truth: everything as one graph. */
async function whole(): Promise<Result> {
  const { score, last, wrt } = net.unrolled();
  const names = Object.keys(wrt);
  const found = grad([score], [constant(f32([1], []))], Object.values(wrt));
  const feeds: Record<string, NDArray> = { ...net.clipFeeds, x: net.noise, cx: net.cotangents.x };
  for (const [j, t] of net.times.entries()) {
    feeds[`t${j}`] = t;
    feeds[`cf${j}`] = net.cotangents.feature[j];
    feeds[`ch${j}`] = net.cotangents.hints[j];
  }
  const grads = Object.fromEntries(found.map((g, i) => [names[i], g!]));
  const { last: x, ...rest } = await evaluate({ last, ...grads }, feeds, {
    weights: net.weights,
    runtime,
  });
  return { last: x, grads: rest };
}

/** The same by k calls of one program, chained on the host and swept back. */
async function swept(program: Program, remat: Remat): Promise<Result> {
  const sweep = program.sweep([...net.clipNames, 'x'], remat);
  const clip = await sweep.clip(net.clipFeeds);
  let x: NDArray = net.noise;
  const tapes: Tape[] = [];
  for (const t of net.times) {
    const { outputs, tape } = await sweep.step(clip, { ...net.clipFeeds, x, t });
    x = plus(scaled(x, net.keep), scaled(outputs.sample, net.take));
    tapes.push(tape);
  }
  const last = x;
  const bar: Cotangents = new Map();
  let g: F32Array = net.cotangents.x;
  for (let j = net.k - 1; j >= 0; j--) {
    const given = {
      sample: scaled(g, net.take),
      feature: net.cotangents.feature[j],
      hints: net.cotangents.hints[j],
    };
    const own = await sweep.back(tapes[j], given, bar);
    expect(Object.keys(own)).toEqual(['x']);
    g = plus(scaled(g, net.keep), own.x);
  }
  const grads = await sweep.finish(clip, bar);
  expect(Object.keys(grads)).toEqual(net.clipNames);
  return { last, grads: { ...grads, x: g } };
}

const plans = ([1, 2, 4, 'marks'] as const).flatMap((segments) =>
  [true, false].map((split) => ({ segments, split })),
);

let truth: Result;
beforeAll(async () => {
  truth = await whole();
});

describe.each(plans)('$segments segments, split $split', (options: (typeof plans)[number]) => {
  let program: Program;

  beforeAll(() => {
    program = new Program(net.traced(), { runtime, weights: net.weights, ...options });
    return () => program.release();
  });

  test('is cut as asked', () => {
    const rates = program.segments.map(({ rate }) => rate);
    const steps = rates.filter((rate) => rate === 'step').length;
    expect(steps).toBeLessThanOrEqual({ 1: 1, 2: 2, 4: 4, marks: 5 }[options.segments]);
    expect(steps).toBeGreaterThan(options.segments === 1 ? 0 : 1);
    expect(rates.includes('clip')).toBe(options.split);
  });

  test.each(['none', 'step', 'segment'] as const)('remat %s', async (remat) => {
    const { last, grads } = await swept(program, remat);
    expect(relativeError(last, truth.last)).toBeLessThan(limit);
    for (const [name, want] of Object.entries(truth.grads))
      expect({ name, error: relativeError(grads[name], want) }).toEqual({
        name,
        error: expect.toSatisfy((error: number) => error < limit),
      });
  });

  test.each(['none', 'step', 'segment'] as const)(
    'remat %s on a thread of its own, to which what is kept is handed over',
    async (remat) => {
      const fork = runtime.fork();
      const there = new Program(net.traced(), { runtime: fork, weights: net.weights, ...options });
      expect(await swept(there, remat)).toEqual(await swept(program, remat));
      await fork.release();
    },
  );

  test('uses up what a step kept', async () => {
    const sweep = program.sweep(['x'], 'none');
    const clip = await sweep.clip(net.clipFeeds);
    const feeds = { ...net.clipFeeds, x: net.noise, t: net.times[0] };
    const { tape } = await sweep.step(clip, feeds);
    const given = { sample: net.cotangents.x };
    await sweep.back(tape, given, new Map());
    await expect(sweep.back(tape, given, new Map())).rejects.toMatchObject({ code: 'TAPE_SPENT' });
    // Of a step that keeps nothing every backward pass computes it again.
    const again = program.sweep(['x'], 'step');
    const { tape: light } = await again.step(await again.clip(net.clipFeeds), feeds);
    const first = await again.back(light, given, new Map());
    expect(await again.back(light, given, new Map())).toEqual(first);
  });

  test('forecasts what its tapes hold; a budget takes the first remat that fits', async () => {
    const sweep = program.sweep([...net.clipNames, 'x']);
    const clip = await sweep.clip(net.clipFeeds);
    const feeds = { ...net.clipFeeds, x: net.noise, t: net.times[0] };
    const { tape } = await sweep.step(clip, feeds);
    const held = [...tape.values].filter(([t]) => !clip.values.has(t));
    const bytes = held.reduce((size, [, { data }]) => size + data.byteLength, 0);
    const { none, step, segment } = sweep.forecast(3);
    expect({ none, step }).toEqual({ none: 3 * bytes, step: bytes });
    expect(segment).toBeLessThanOrEqual(step);
    const chosen = (most: number) => program.sweep(['x'], { steps: 3, bytes: most }).remat;
    const own = program.sweep(['x']).forecast(3);
    expect(chosen(own.none)).toBe('none');
    expect(chosen(own.none - 1)).toBe('step');
    expect(chosen(own.segment - 1)).toBe('segment');
  });

  test('runs alone as in a sweep', async () => {
    const feeds = { ...net.clipFeeds, x: net.noise, t: net.times[0] };
    const alone = await program.run(feeds);
    const none = { sample: zeros(net.sampleShape) };
    const { outputs, grads } = await program.sweep(['keys', 'x']).run(feeds, none);
    for (const [name, value] of Object.entries(alone))
      expect(relativeError(outputs[name], value)).toBeLessThan(limit);
    expect(grads).toEqual({ x: zeros(net.sampleShape), keys: zeros([4, 5]) });
  });
});

describe('a sweep', () => {
  const weights = Weights.fromArrays({});
  const x = f32([1, 2, 3], [3]);
  const one = f32([1, 1, 1], [3]);

  /** Gradients of Σ outputs · 1 with respect to everything that is fed. */
  async function sweepOf(outputs: Parameters<typeof evaluate>[0], options: PlanOptions = {}) {
    const program = new Program({ outputs, marks: [] }, { runtime, weights, ...options });
    const feeds = Object.fromEntries([...program.inputs.keys()].map((name) => [name, x]));
    const given = Object.fromEntries(Object.keys(outputs).map((name) => [name, one]));
    const { grads } = await program.sweep([...program.inputs.keys()]).run(feeds, given);
    await program.release();
    return Object.fromEntries(Object.entries(grads).map(([name, g]) => [name, [...g.data]]));
  }

  test('counts the cotangent of an input that is an output once', async () => {
    const s = input('s', [3]);
    const c = input('c', [3], { rate: 'clip' });
    const p = param('p', [3], { live: true });
    for (const split of [true, false])
      expect(await sweepOf({ y: mul(mul(s, 2), mul(c, p)), s, c, p }, { split })).toEqual({
        s: [3, 9, 19],
        c: [3, 9, 19],
        p: [3, 9, 19],
      });
  });

  test('names an input twice and counts it once', async () => {
    const outputs = { y: mul(input('s', [3]), 2) };
    const program = new Program({ outputs, marks: [] }, { runtime, weights });
    const { grads } = await program.sweep(['s', 's']).run({ s: x }, { y: one });
    expect([...grads.s.data]).toEqual([2, 2, 2]);
    await program.release();
  });

  test('passes through half precision, at a cut and as an output', async () => {
    const marks: number[] = [];
    const half = cast(mul(input('s', [3]), 2), 'f16');
    marks.push(tracePosition());
    const outputs = { y: mul(cast(half, 'f32'), 3), half };
    const program = new Program({ outputs, marks }, { runtime, weights, segments: 'marks' });
    expect(program.segments.length).toBe(2);
    const { grads } = await program.sweep(['s']).run({ s: x }, { y: one, half: one });
    expect([...grads.s.data]).toEqual([8, 8, 8]);
    await program.release();
  });

  test('sums over two names of one output', async () => {
    const y = mul(input('s', [3]), 2);
    expect(await sweepOf({ y, again: y })).toEqual({ s: [4, 4, 4] });
  });

  test('gives zeros where nothing depends on the input', async () => {
    const y = exp(mul(input('c', [3], { rate: 'clip' }), 0));
    expect(await sweepOf({ y, z: add(input('s', [3]), 1) })).toEqual({
      c: [0, 0, 0],
      s: [1, 1, 1],
    });
  });

  test('knows its inputs and outputs', async () => {
    const outputs = { latents: mul(input('sample', [3]), 2) };
    const program = new Program({ outputs, marks: [] }, { runtime, weights });
    expect(() => program.sweep(['simple'])).toThrow(
      'No input or live parameter is named simple; nearest: sample.',
    );
    await expect(program.sweep(['sample']).run({ sample: x }, { latent: one })).rejects.toThrow(
      'A cotangent was given for latent, which is no output; nearest: latents.',
    );
    await program.release();
  });

  test('maps big weights and cuts between marks, prepacks small ones whole', () => {
    const options = (rows: number, own: Parameters<typeof program>[1] = {}) =>
      program(rows, own).options;
    function program(rows: number, own: PlanOptions & { profile?: 'mapped' | 'prepacked' }) {
      const marks: number[] = [];
      const once = linear(input('x', [8192]), param('w', [rows, 8192]));
      marks.push(tracePosition());
      return new Program({ outputs: { y: exp(once) }, marks }, { runtime: open, weights, ...own });
    }
    const open = new OrtRuntime({ threads: 1 });
    expect(options(8192)).toMatchObject({ profile: 'prepacked', segments: 1 });
    expect(options(8193)).toMatchObject({ profile: 'mapped', segments: 'marks' });
    expect(program(8193, {}).segments).toHaveLength(2);
    expect(options(8193, { profile: 'prepacked', segments: 1 }).profile).toBe('prepacked');
    expect(program(8193, { segments: 1 }).segments).toHaveLength(1);
  });

  test('leaves frozen weights alone', async () => {
    const w = param('w', [2, 3]);
    const program = new Program(
      { outputs: { y: sum(linear(input('x', [3]), w)) }, marks: [] },
      { runtime, weights: Weights.fromArrays({ w: f32([1, 2, 3, 4, 5, 6], [2, 3]) }) },
    );
    expect([...program.inputs.keys()]).toEqual(['x']);
    const { grads } = await program.sweep(['x']).run({ x }, { y: f32([1], []) });
    expect([...grads.x.data]).toEqual([5, 7, 9]);
    await program.release();
  });
});
