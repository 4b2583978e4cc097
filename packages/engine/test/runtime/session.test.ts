/** Sessions and programs at their edges: wrong feeds, failing models, release. */

import { afterAll, describe, expect, test } from 'vitest';

import {
  add,
  argmax,
  cast,
  concat,
  type Device,
  emit,
  equal,
  exp,
  f32,
  gather,
  grad,
  i64,
  input,
  linear,
  matmul,
  mul,
  OrtRuntime,
  param,
  Program,
  Rng,
  type Runtime,
  sum,
  type Tensor,
  Weights,
  zeros,
} from '../../src/index.ts';

const runtime = new OrtRuntime({ threads: 1 });
afterAll(() => runtime.release());

const weights = Weights.fromArrays({ w: f32([1, 2, 3, 4], [2, 2]) });
const program = (outputs: Record<string, Tensor>, on: Runtime = runtime): Program =>
  new Program({ outputs, marks: [] }, { runtime: on, weights });
/** The model of exp(x), x [2], and the name of its output. */
const { model, outputs: names } = emit({
  outputs: [exp(input('x', [2]))],
  boundary: new Map(),
  weight: (name) => weights.entry(name),
});

describe('feeds', () => {
  const y = exp(add(input('sample', [2, 3]), cast(input('ids', [3], { dtype: 'i64' }), 'f32')));
  const good = { sample: zeros([2, 3]), ids: i64([0, 1, 2], [3]) };

  test.each([
    [{ ...good, sample: undefined }, 'The input sample [2,3] was not given (given: ids'],
    [{}, 'was not given (given: nothing; nearest: none)'],
    [
      { ...good, sample: zeros([3, 2]) },
      'The input sample is f32 [3,2]; the program wants f32 [2,3].',
    ],
    [{ ...good, ids: zeros([3]) }, 'The input ids is f32 [3]; the program wants i64 [3].'],
  ])('that do not fit: %#', async (feeds, message) => {
    const given = Object.fromEntries(
      Object.entries(feeds).flatMap(([name, array]) => (array ? [[name, array]] : [])),
    );
    const compiled = program({ y });
    await expect(compiled.run(given)).rejects.toThrow(message);
    await compiled.release();
  });

  test('may hold more than is read, of every type', async () => {
    const [n, flag] = [input('n', [2], { dtype: 'i64' }), input('flag', [2], { dtype: 'bool' })];
    const halves = cast(input('h', [2], { dtype: 'f16' }), 'f32');
    const outputs = {
      i: argmax(concat([halves, mul(halves, 2)], 0), 0),
      same: equal(n, gather(n, argmax(halves, 0))),
      b: cast(flag, 'f32'),
    };
    const compiled = program(outputs);
    const out = await compiled.run({
      n: i64([5, 2 ** 40], [2]),
      flag: { dtype: 'bool', shape: [2], data: Uint8Array.of(1, 0) },
      h: { dtype: 'f16', shape: [2], data: Uint16Array.of(0x3c00, 0x4000) },
      unused: f32([1], [1]),
    });
    expect(out.i).toEqual({ dtype: 'i64', shape: [], data: BigInt64Array.of(3n) });
    expect(out.same).toEqual({ dtype: 'bool', shape: [2], data: Uint8Array.of(0, 1) });
    expect(out.b).toEqual(f32([1, 0], [2]));
    await compiled.release();
  });

  test('cannot be bf16, which is for stored weights', async () => {
    expect(() => input('half', [1], { dtype: 'bf16' })).toThrow('input half: bf16 is for stored');
    const session = await runtime.load(model);
    const feeds = { x: { dtype: 'bf16', shape: [2], data: Uint16Array.of(0, 0) } } as const;
    await expect(session.run(feeds, names)).rejects.toThrow('x: bf16 cannot be fed.');
    await session.release();
  });

  test('are left as they are; results are arrays of their own', async () => {
    const x = f32([1, 2, 3], [3]);
    const t = input('x', [3]);
    const compiled = program({ y: mul(t, 2), same: t });
    const [first, second] = [await compiled.run({ x }), await compiled.run({ x })];
    expect(x.data).toEqual(Float32Array.of(1, 2, 3));
    expect(first.same).toEqual(x);
    expect(first.same.data.buffer).not.toBe(x.data.buffer);
    expect(first.y.data.buffer).not.toBe(second.y.data.buffer);
    await compiled.release();
  });
});

describe('names', () => {
  test('are one leaf each', () => {
    expect(() => program({ y: add(input('x', [2]), input('x', [2])) })).toThrow(
      expect.objectContaining({ code: 'NAME_CLASH' }),
    );
    expect(() => program({ y: exp(input('%0', [2])) })).toThrow('names with "%"');
  });

  test('of frozen weights may be read twice', async () => {
    const compiled = program({ y: add(param('w', [2, 2]), exp(mul(param('w', [2, 2]), 0))) });
    const { y } = await compiled.run({});
    expect([...y.data]).toEqual([2, 3, 4, 5]);
    await compiled.release();
  });
});

describe('release', () => {
  const x = f32([1, 2], [2]);

  test('of a session ends it', async () => {
    const session = await runtime.load(model);
    await session.run({ x }, names);
    await session.release();
    await expect(session.run({ x }, names)).rejects.toThrow(
      expect.objectContaining({ code: 'RELEASED' }),
    );
    await session.release();
  });

  test('of a runtime ends its sessions', async () => {
    const own = new OrtRuntime({ threads: 1 });
    const session = await own.load(model);
    await own.release();
    await expect(session.run({ x }, names)).rejects.toThrow(
      expect.objectContaining({ code: 'RELEASED' }),
    );
  });

  test('of a program frees its sessions; the next run makes them again', async () => {
    const compiled = program({ y: exp(input('x', [2])) });
    const first = await compiled.run({ x });
    await compiled.release();
    expect(await compiled.run({ x })).toEqual(first);
    await compiled.release();
    await compiled.release();
  });

  test('of a program whose model failed is quiet, and the failure is not kept', async () => {
    let attempts = 0;
    const flaky: Runtime = {
      profile: 'mapped',
      device: 'cpu',
      threads: 1,
      fork: () => runtime.fork(),
      release: async () => {},
      load: async (bytes) => {
        if (attempts++ === 0) throw new Error('no memory');
        return runtime.load(bytes);
      },
    };
    const compiled = program({ y: exp(input('x', [2])) }, flaky);
    await expect(compiled.run({ x })).rejects.toThrow('no memory');
    await compiled.release();
    expect((await compiled.run({ x })).y.shape).toEqual([2]);
    await compiled.release();
    const missing = program({ y: linear(input('x', [1, 2]), param('missing', [2, 2])) });
    await expect(missing.run({ x: f32([1, 2], [1, 2]) })).rejects.toThrow(
      'There is no weight missing; nearest: w.',
    );
    await missing.release();
  });
});

describe('a runtime', () => {
  test('explains a model that ONNX Runtime refuses', async () => {
    await expect(runtime.load(new Uint8Array(8))).rejects.toThrow(
      expect.objectContaining({ code: 'RUNTIME' }),
    );
  });

  test.each([
    [{ threads: 0 }, /0 threads; give 1 to 1024/],
    [{ threads: -1 }, /-1 threads/],
    [{ threads: 1.5 }, /1\.5 threads/],
    [{ threads: Number.NaN }, /NaN threads/],
    [{ threads: 100_000 }, /100000 threads/],
    [{ device: 'foo' as Device }, /the device "foo"; there are cpu, cuda/],
  ])('is not made of %j', (options, message) => {
    expect(() => new OrtRuntime(options)).toThrow(
      expect.objectContaining({ code: 'BAD_ARGUMENT', message: expect.stringMatching(message) }),
    );
  });

  test('names a device that is not there', async () => {
    const nowhere = new OrtRuntime({ threads: 1, device: 'coreml' });
    if (process.platform === 'darwin') return;
    const load = nowhere.load(model);
    await expect(load).rejects.toThrow(expect.objectContaining({ code: 'DEVICE_MISSING' }));
  });

  test('gives the same bits twice', async () => {
    const t = input('x', [2]);
    const [g] = grad([sum(exp(t))], [param('one', [], { live: true })], [t]);
    const compiled = program({ g: g! });
    const feeds = { x: f32([1, 2], [2]), one: f32([1], []) };
    expect(await compiled.run(feeds)).toEqual(await compiled.run(feeds));
    await compiled.release();
  });
});

describe('a fork', () => {
  const x = f32([1, 2], [2]);

  test('computes on its own thread what the runtime computes, beside another one', async () => {
    const forks = [runtime.fork(), runtime.fork()];
    const feeds = { x, ids: i64([1, 0], [2]) };
    const y = add(exp(input('x', [2])), cast(input('ids', [2], { dtype: 'i64' }), 'f32'));
    const [here, ...there] = await Promise.all(
      [runtime, ...forks].map((on) => program({ y }, on).run(feeds)),
    );
    for (const found of there) expect(found).toEqual(here);
    for (const fork of forks) await fork.release();
  });

  test('refuses what the runtime refuses, and a session from before its release', async () => {
    const fork = runtime.fork();
    await expect(fork.load(new Uint8Array([1, 2, 3]))).rejects.toMatchObject({ code: 'RUNTIME' });
    const session = await fork.load(model);
    await expect(session.run({ x: f32([1], [1]) }, names)).rejects.toMatchObject({
      code: 'RUNTIME',
    });
    await expect(session.run({ x: { ...x, dtype: 'bf16' } }, names)).rejects.toThrow(
      'x: bf16 cannot be fed.',
    );
    expect((await session.run({ x }, names))[names[0]].shape).toEqual([2]);
    await session.release();
    await expect(session.run({ x }, names)).rejects.toMatchObject({ code: 'RELEASED' });
    const open = await fork.load(model);
    const ending = fork.release();
    await expect(fork.load(model)).rejects.toMatchObject({ code: 'RELEASED' });
    await ending;
    await expect(open.run({ x }, names)).rejects.toMatchObject({ code: 'RELEASED' });
    const again = await fork.load(model);
    await expect(open.run({ x }, names)).rejects.toMatchObject({ code: 'RELEASED' });
    expect((await again.run({ x }, names))[names[0]].shape).toEqual([2]);
    await fork.release();
  });

  test('finishes what it computes when it is released: a thread must not end inside ONNX Runtime', async () => {
    const fork = runtime.fork();
    const wide = input('wide', [900, 900]);
    const { model: long, outputs } = emit({
      outputs: [Array.from({ length: 8 }).reduce<Tensor>((y) => matmul(y, wide), wide)],
      boundary: new Map(),
      weight: () => expect.unreachable(),
    });
    const session = await fork.load(long);
    let done = false;
    const compute = async () => {
      await session.run({ wide: Rng.of(1).normals([900, 900]) }, outputs);
      done = true;
    };
    const asked = compute();
    await new Promise((resolve) => setTimeout(resolve, 30));
    expect(done).toBe(false);
    await Promise.all([asked, fork.release()]);
    expect(done).toBe(true);
  });
});
