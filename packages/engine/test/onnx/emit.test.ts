/** Emitted models, read back: names, order, sharing, dead code, weights in place. */

import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { describe, expect, test } from 'vitest';

import {
  add,
  cast,
  constant,
  conv2d,
  emit,
  type Emitted,
  exp,
  f32,
  grad,
  input,
  layerNorm,
  linear,
  mul,
  OrtRuntime,
  param,
  relu,
  Rng,
  sin,
  split,
  sum,
  type Tensor,
  toF32,
  toHalf,
  Weights,
  writeSafetensors,
} from '../../src/index.ts';
import { evaluate, relativeError } from '../../src/testing/index.ts';
import { type OnnxModel, readModel } from './read.ts';

const rng = Rng.of(4);
const arrays = {
  w: rng.fork('w').normals([4, 3]),
  k: rng.fork('k').normals([2, 2, 3, 3]),
  g: rng.fork('g').normals([4]),
};

function emitted(outputs: readonly Tensor[], weights = Weights.fromArrays(arrays)): Emitted {
  return emit({ outputs, boundary: new Map(), weight: (name) => weights.entry(name) });
}

const read = (...outputs: readonly Tensor[]): OnnxModel => readModel(emitted(outputs).model);
const types = (model: OnnxModel): string[] => model.nodes.map(({ type }) => type);

/** A layer with normalisation, its convolution, and their gradients. */
function graph(): Tensor[] {
  const x = input('x', [2, 3]);
  const image = input('image', [1, 2, 4, 4]);
  const h = layerNorm(relu(linear(x, param('w', [4, 3]))), param('g', [4]), param('g', [4]));
  const score = add(sum(mul(h, h)), sum(exp(conv2d(image, param('k', [2, 2, 3, 3])))));
  return [score, ...grad([score], [constant(f32([1], []))], [x, image]).filter((g) => g !== null)];
}

describe('a model', () => {
  test('is of IR version 10 and opset 21, with values named once and made before they are read', () => {
    const model = read(...graph());
    expect([model.ir, model.opset]).toEqual([10, 21]);
    const known = new Set(['']);
    const made = [
      ...model.inputs.map(({ name }) => [name]),
      ...model.initializers.map(({ name }) => [name]),
      ...model.nodes.map(({ outputs }) => outputs),
    ];
    expect(new Set(made.flat()).size).toBe(made.flat().length);
    for (const { name } of [...model.inputs, ...model.initializers]) known.add(name);
    for (const { inputs, outputs } of model.nodes) {
      for (const name of inputs) expect(known).toContain(name);
      for (const name of outputs) known.add(name);
    }
    for (const { name } of model.outputs) expect(known).toContain(name);
  });

  test('holds no node that no output needs', () => {
    const x = input('x', [3]);
    const dead = sin(x);
    const kept = exp(x);
    expect(types(read(kept))).toEqual(['Exp']);
    expect(types(read(dead))).toEqual(['Sin']);
    const model = read(...graph());
    const wanted = new Set(model.outputs.map(({ name }) => name));
    for (const { inputs, outputs } of model.nodes.toReversed()) {
      expect(outputs.some((name) => wanted.has(name))).toBe(true);
      for (const name of inputs) wanted.add(name);
    }
    for (const { name } of [...model.inputs, ...model.initializers]) expect(wanted).toContain(name);
  });

  test('is the same bytes for a second trace', () => {
    expect(Buffer.from(emitted(graph()).model).equals(emitted(graph()).model)).toBe(true);
  });

  test('computes equal expressions once', () => {
    const x = input('x', [3]);
    expect(types(read(add(exp(x), exp(x))))).toEqual(['Exp', 'Add']);
    const two = emitted([exp(x), exp(x)]);
    expect(two.outputs[0]).toBe(two.outputs[1]);
    expect(readModel(two.model).outputs.length).toBe(1);
  });

  test('passes an input or a weight through as an output', async () => {
    const x = input('x', [4]);
    const weights = Weights.fromArrays(arrays);
    const given = rng.fork('given').normals([4]);
    const seven = constant(f32([7], [1]));
    const out = await evaluate({ x, g: param('g', [4]), seven }, { x: given }, { weights });
    expect(out.x).toEqual(given);
    expect(out.g).toEqual(arrays.g);
    expect(out.seven.data).toEqual(Float32Array.of(7));
  });

  test('keeps its own names apart from those of inputs and weights', async () => {
    const names = ['v0', 'v1', 'c0', 'c1'];
    const sumOf = names.reduce<Tensor>(
      (s, name) => add(s, mul(input(name, [1]), 2)),
      mul(param('v2', [1]), 3),
    );
    const feeds = Object.fromEntries(names.map((name, i) => [name, f32([i], [1])]));
    const weights = Weights.fromArrays({ v2: f32([5], [1]) });
    const { y } = await evaluate({ y: sumOf }, feeds, { weights });
    expect(y.data[0]).toBe(2 * 6 + 15);
  });

  test('carries attributes of every kind', () => {
    const x = input('x', [2, 3]);
    const model = read(layerNorm(x, input('a', [3]), input('b', [3]), 0.25), cast(x, 'f64'));
    const attrs = Object.assign({}, ...model.nodes.map((n) => n.attrs)) as object;
    expect(attrs).toMatchObject({ axis: -1, epsilon: 0.25, to: 11 });
    const [conv] = read(
      conv2d(input('i', [1, 2, 4, 4]), param('k', [2, 2, 3, 3]), undefined, { padding: 2 }),
    ).nodes;
    expect(conv.attrs).toEqual({ kernel_shape: [3, 3], strides: [1, 1], pads: [2, 2, 2, 2] });
  });
});

describe('clashes', () => {
  test('two inputs of one name and different shapes', () => {
    expect(() => emitted([input('x', [3]), input('x', [4])])).toThrow('Two inputs are named x');
  });

  test('an input and a weight of one name', () => {
    const message = 'k names both an input and a frozen weight.';
    const [fed, stored] = [input('k', [2, 2, 3, 3]), param('k', [2, 2, 3, 3])];
    expect(() => emitted([mul(fed, stored)])).toThrow(message);
    expect(() => emitted([mul(param('k', [2, 2, 3, 3]), input('k', [2, 2, 3, 3]))])).toThrow(
      message,
    );
  });

  test('a weight of another shape, and one that is missing', () => {
    expect(() => emitted([param('w', [3, 4])])).toThrow(
      'The weight w is [4,3]; the model wants [3,4].',
    );
    expect(() => emitted([param('v', [3])])).toThrow('There is no weight v; nearest: ');
  });
});

describe('stored weights', () => {
  const folder = mkdtempSync(join(tmpdir(), 'emit-'));
  const x = rng.fork('x').normals([5, 3]);
  const y = relu(linear(input('x', [5, 3]), param('w', [4, 3]), param('g', [4])));

  test.each(['f16', 'bf16'] as const)('%s computes as f32 of the stored values', async (dtype) => {
    const stored = { w: toHalf(arrays.w, dtype), g: toHalf(arrays.g, dtype) };
    const plain = { w: toF32(stored.w), g: toF32(stored.g) };
    expect(plain.w).not.toEqual(arrays.w);
    const path = join(folder, `${dtype}.safetensors`);
    writeSafetensors(path, stored);
    for (const profile of ['prepacked', 'mapped'] as const) {
      const runtime = new OrtRuntime({ threads: 1, profile });
      const run = async (weights: Weights) =>
        (await evaluate({ y }, { x }, { weights, runtime })).y;
      const want = await run(Weights.fromArrays(plain));
      expect(await run(Weights.fromArrays(stored))).toEqual(want);
      expect(await run(Weights.fromFile(path))).toEqual(want);
    }
  });

  test.each(['prepacked', 'mapped'] as const)(
    'from a file, %s, equal those in memory',
    async (profile) => {
      const path = join(folder, 'f32.safetensors');
      writeSafetensors(path, arrays, { note: 'odd header' });
      const runtime = new OrtRuntime({ threads: 1, profile });
      const outputs = Object.fromEntries(graph().map((t, i) => [`y${i}`, t]));
      const feeds = { x: x3, image: rng.fork('image').normals([1, 2, 4, 4]) };
      const memory = await evaluate(outputs, feeds, {
        weights: Weights.fromArrays(arrays),
        runtime,
      });
      const file = await evaluate(outputs, feeds, { weights: Weights.fromFile(path), runtime });
      for (const name of Object.keys(outputs))
        expect(relativeError(file[name], memory[name])).toBeLessThan(1e-6);
    },
  );
  const x3 = rng.fork('x3').normals([2, 3]);

  test('in a file are addressed there, never copied into the model', () => {
    const path = join(folder, 'place.safetensors');
    writeSafetensors(path, arrays);
    const weights = Weights.fromFile(path);
    const [w] = readModel(emitted([y], weights).model).initializers;
    expect(w.bytes.length).toBe(0);
    expect(w.external.location).toBe(weights.entry('w').source!.file.slice(1));
    const [offset, length] = [Number(w.external.offset), Number(w.external.length)];
    const bytes = readFileSync(path).subarray(offset, offset + length);
    expect(Buffer.compare(bytes, Buffer.from(arrays.w.data.buffer))).toBe(0);
  });

  test('of which some rows are read are addressed there, row by row', async () => {
    const product = linear(input('x', [5, 3]), param('w', [4, 3]));
    const [a, b] = split(product, [1, 3], 1);
    const halves = mul(a, b);
    const path = join(folder, 'rows.safetensors');
    writeSafetensors(path, { w: toHalf(arrays.w, 'f16') });
    const file = Weights.fromFile(path);
    const model = readModel(emitted([halves], file).model);
    const place = file.entry('w').source!;
    expect(types(model)).not.toContain('Slice');
    expect(model.initializers.map(({ name, external }) => [name, Number(external.offset)])).toEqual(
      [
        ['w[0:1]', place.offset],
        ['w[1:4]', place.offset + 2 * 3],
      ],
    );
    for (const profile of ['prepacked', 'mapped'] as const) {
      const runtime = new OrtRuntime({ threads: 1, profile });
      const run = (weights: Weights) => evaluate({ halves, product }, { x }, { weights, runtime });
      const [got, memory] = [
        await run(file),
        await run(Weights.fromArrays({ w: toF32(file.entry('w').load()) })),
      ];
      expect(memory).toEqual(got);
      const all = got.product.data as Float32Array;
      const want = Float32Array.from({ length: 15 }, (_, i) => {
        const row = 4 * Math.floor(i / 3);
        return all[row] * all[row + 1 + (i % 3)];
      });
      expect(relativeError(got.halves, f32(want, [5, 3]))).toBeLessThan(1e-6);
    }
  });
});
