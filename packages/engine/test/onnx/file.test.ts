/** A model for other programs: names of its own, fixed inputs, weights in a file beside it. */

import { mkdtempSync, renameSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { expect, test } from 'vitest';

import {
  add,
  bytesOf,
  emit,
  type EmitRequest,
  exp,
  f32,
  input,
  linear,
  mul,
  OrtRuntime,
  param,
  Rng,
  Weights,
} from '../../src/index.ts';
import { readModel } from './read.ts';

const rng = Rng.of(9);
const w = rng.fork('w').normals([4, 3]);
const weights = Weights.fromArrays({ w });

/** y = s · W x and 2 x, with W in `w.data`. */
function request(): EmitRequest {
  const x = input('x', [2, 3]);
  const s = input('s', [], { rate: 'clip' });
  return {
    outputs: [mul(linear(x, param('w', [4, 3])), s), add(x, x), add(x, x)],
    boundary: new Map(),
    names: ['y', 'twice', 'again'],
    about: new Map([
      ['x', 'rows'],
      ['y', 'what they become'],
    ]),
    metadata: { 'made.by': 'a test' },
    fixed: new Map([['s', f32([3], [])]]),
    weight: (name) => ({
      ...weights.entry(name),
      source: { file: 'w.data', offset: 64, length: 48 },
    }),
  };
}

test('says what it is', () => {
  const { model, outputs, inputs } = emit(request());
  const read = readModel(model);
  expect([...inputs.keys()]).toEqual(['x']);
  expect(read.inputs).toEqual([{ name: 'x', type: 1, shape: [2, 3], about: 'rows' }]);
  expect(outputs).toEqual(['y', 'twice', 'again']);
  expect(read.outputs.map(({ name, about }) => [name, about])).toEqual([
    ['y', 'what they become'],
    ['twice', ''],
    ['again', ''],
  ]);
  expect(read.metadata).toEqual({ 'made.by': 'a test' });
  const [own] = read.initializers.filter(({ name }) => name === 'w');
  expect(own.external).toEqual({ location: 'w.data', offset: '64', length: '48' });
});

test('opens from its path wherever its folder lies', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'onnx-'));
  const { model } = emit(request());
  writeFileSync(join(folder, 'net.onnx'), model);
  writeFileSync(join(folder, 'w.data'), Buffer.concat([Buffer.alloc(64), bytesOf(w)]));
  const moved = `${folder}-moved`;
  renameSync(folder, moved);
  const runtime = new OrtRuntime({ threads: 1 });
  const x = rng.fork('x').normals([2, 3]);
  for (const one of [runtime, runtime.fork()])
    for (const profile of ['prepacked', 'mapped'] as const) {
      const session = await one.load(join(moved, 'net.onnx'), profile);
      const { y, twice } = await session.run({ x }, ['y', 'twice']);
      for (let row = 0; row < 2; row++)
        for (let out = 0; out < 4; out++) {
          let want = 0;
          for (let k = 0; k < 3; k++) want += 3 * w.data[out * 3 + k] * x.data[row * 3 + k];
          expect(y.data[row * 4 + out]).toBeCloseTo(want, 5);
        }
      expect([...(twice.data as Float32Array)]).toEqual([...x.data].map((value) => 2 * value));
      await session.release();
      if (one !== runtime) await one.release();
    }
  await expect(runtime.load(join(moved, 'none.onnx'))).rejects.toThrow(/refused a model/);
  await runtime.release();
});

test('an output cannot have the name of another value', () => {
  const x = input('x', [1]);
  for (const names of [['x'], ['w']])
    expect(() =>
      emit({
        outputs: [add(exp(x), param('w', [1]))],
        boundary: new Map(),
        names,
        weight: (name) => Weights.fromArrays({ w: f32([1], [1]) }).entry(name),
      }),
    ).toThrow(/names an output and another value/);
});
