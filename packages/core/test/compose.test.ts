import { createHash } from 'node:crypto';

import {
  AttuneError,
  emit,
  f32,
  mul,
  OrtRuntime,
  type Shape,
  type Tensor,
  Weights,
} from '@attune/engine';
import { describe, expect, test } from 'vitest';

import type { Adapter } from '../src/adapters/adapter.ts';
import { compile, compose, inventory, materialize, traceNet } from '../src/adapters/compose.ts';
import { standingFeeds, trainableInputs } from '../src/adapters/feeds.ts';
import type { Strength } from '../src/adapters/strength.ts';
import type { Model } from '../src/models/model.ts';
import { zeros } from '../src/nn/init.ts';
import { tinyModel } from '../src/testing/index.ts';
import { tinyDims as dims } from '../src/testing/tiny.ts';

const base = tinyModel();

/** Scales every hidden value by 1 + strength · weight. */
const scaler = (name: string, rest: Partial<Adapter> = {}): Adapter => ({
  name,
  attach: () => [
    {
      at: 'hidden:unet.**',
      delta: (value, { scope }) => mul(value, scope.param('weight', [], zeros)),
    },
  ],
  ...rest,
});

const bytesOf = (model: Model): string => {
  const { traced } = traceNet(model, { net: 'unet', dims });
  const { model: bytes } = emit({
    outputs: Object.values(traced.outputs),
    boundary: new Map(),
    weight: (name) => model.weights.entry(name),
  });
  return createHash('sha256').update(bytes).digest('hex');
};

const codeOf = (act: () => unknown): string => {
  try {
    act();
  } catch (error) {
    if (AttuneError.is(error)) return error.code;
    throw error;
  }
  return 'none';
};

const tracing = (attach: Adapter['attach']) => () =>
  inventory(compose(base, { name: 'mine', attach }), dims);

describe('compose', () => {
  test('is associative: nested and flat stacks emit the same bytes, and order counts', () => {
    const [a, b] = [scaler('a', { strength: 0.5 }), scaler('b')];
    const flat = materialize(compose(base, a, b), { dims });
    const nested = materialize(compose(compose(base, a), b), { dims });
    expect(bytesOf(nested)).toBe(bytesOf(flat));
    expect(bytesOf(materialize(compose(base, b, a), { dims }))).not.toBe(bytesOf(flat));
  });

  test('without adapters, or with all of them at 0, emits the bytes of the backbone', () => {
    expect(bytesOf(compose(base))).toBe(bytesOf(base));
    const off = compose(
      base,
      scaler('a', { strength: 0 }),
      scaler('b', { strength: { default: 0 } }),
    );
    expect(off.adapters).toEqual([]);
    expect(bytesOf(off)).toBe(bytesOf(base));
  });

  test('leaves the model it was given alone', () => {
    const names = [...base.weights.names()];
    materialize(compose(base, scaler('a')), { dims });
    expect(base.adapters).toEqual([]);
    expect([...base.weights.names()]).toEqual(names);
  });

  test.each([
    ['a name with a dot', () => compose(base, scaler('a.b')), 'ADAPTER_NAME'],
    ['the name of a net', () => compose(base, scaler('unet')), 'ADAPTER_NAME'],
    ['one name twice', () => compose(base, scaler('a'), scaler('a')), 'ADAPTER_NAME'],
    ['a name taken', () => compose(compose(base, scaler('a')), scaler('a')), 'ADAPTER_NAME'],
    [
      'training at 0',
      () => compose(base, scaler('a', { train: true, strength: 0 })),
      'TRAIN_AT_ZERO',
    ],
    [
      'a target that is nowhere',
      () =>
        inventory(
          compose(base, { ...scaler('a'), attach: () => [{ at: 'unet.convin', delta: (v) => v }] }),
          dims,
        ),
      'NO_TARGET',
    ],
    [
      'weights that lack a parameter',
      () => materialize(compose(base, scaler('a', { weights: Weights.fromArrays({}) })), { dims }),
      'MISSING_WEIGHT',
    ],
    ['a net that is not there', () => traceNet(base, { net: 'unit', dims }), 'NO_NET'],
    [
      'an output that is not there',
      () => traceNet(base, { net: 'unet', dims, outputs: ['hidden:unet.mid'] }),
      'NO_SITE',
    ],
  ])('refuses %s', (_, act, code) => {
    expect(codeOf(act)).toBe(code);
  });

  test('what an adapter throws names it and the place', () => {
    const nothing = undefined as unknown as { delta: Tensor };
    expect(tracing(() => [{ at: 'mid:unet.mid_block', delta: () => nothing.delta }])).toThrow(
      /adapter mine failed in its delta at mid:unet\.mid_block: .*delta/,
    );
    expect(tracing(() => [nothing.delta as never])).toThrow(
      /adapter mine failed in attach: .*delta/,
    );
  });

  test('a target that is nowhere is answered with the nearest address', () => {
    const lost = { ...scaler('a'), attach: () => [{ at: 'unet.convin', delta: scalerDelta }] };
    expect(() => inventory(compose(base, lost), dims)).toThrow(/nearest: unet\.conv_in/);
  });
});

const scalerDelta = (value: Parameters<typeof mul>[0]) => mul(value, 1);

/** Inputs named `gate.…` of a model with one scaler of this strength, and their values. */
function gatesOf(strength: Strength) {
  const model = materialize(compose(base, scaler('a', { strength })), { dims });
  const program = compile(
    model,
    { net: 'unet', dims },
    { runtime: new OrtRuntime({ threads: 1 }) },
  );
  const feeds = standingFeeds(model, program);
  return Object.fromEntries(
    Object.entries(feeds).flatMap(([name, { data }]) =>
      name.startsWith('gate.') ? [[name, Number(data[0])]] : [],
    ),
  );
}

describe('strength', () => {
  test('is one input, whatever its value', () => {
    expect(gatesOf(0.5)).toEqual({ 'gate.a': 0.5 });
  });

  test('is one input per prefix that is met, and the longest prefix counts', () => {
    expect(
      gatesOf({
        default: 0.5,
        'unet.up_blocks': 0.25,
        'unet.up_blocks.1': 2,
        'unet.nowhere': 4,
      }),
    ).toEqual({ 'gate.a': 0.5, 'gate.a@unet.up_blocks': 0.25, 'gate.a@unet.up_blocks.1': 2 });
  });

  test('of a prefix stops at the dot', () => {
    expect(gatesOf({ default: 1, 'unet.up_block': 0.25 })).toEqual({ 'gate.a': 1 });
  });

  test('0 under one prefix keeps the adapter', () => {
    expect(gatesOf({ default: 0, 'unet.mid_block': 1 })).toEqual({
      'gate.a': 0,
      'gate.a@unet.mid_block': 1,
    });
  });
});

const filled = (shape: Shape) => {
  const size = shape.reduce((a, b) => a * b, 1);
  return f32(new Float32Array(size).fill(0.5), shape);
};

describe('programs of a model', () => {
  const runtime = new OrtRuntime({ threads: 1 });
  test('sites are outputs, too', async () => {
    const outputs = ['hidden:unet.mid_block.hidden.0', 'sample'];
    const program = compile(base, { net: 'unet', dims, outputs }, { runtime });
    expect(Object.values(program.outputs).map(({ shape }) => shape)).toEqual([
      [6, 16, 2, 2],
      [6, 4, 4, 4],
    ]);
    await program.release();
  });

  test.each([1, 2, 6])('%d rows of time and of text', async (count) => {
    const shapes = { timestep: [count], encoder_hidden_states: [count, 5, 12] };
    const program = compile(base, { net: 'unet', dims, shapes }, { runtime });
    const feeds = Object.fromEntries(
      [...program.inputs].map(([name, { shape }]) => [name, filled(shape)]),
    );
    const { sample } = await program.run(feeds);
    await program.release();
    const rows = Array.from({ length: 6 }, (_, i) =>
      (sample.data as Float32Array).slice(i * 64, i * 64 + 64),
    );
    // Equal rows in, equal rows out: nothing was lifted to the wrong place.
    for (const row of rows)
      expect(Math.max(...row.map((v, i) => Math.abs(v - rows[0][i])))).toBeLessThan(1e-6);
  });

  test('only what trains is live', async () => {
    const model = materialize(
      compose(base, scaler('a', { train: ['unet.up_blocks.**'] }), scaler('b', { live: true })),
      { dims },
    );
    const program = compile(model, { net: 'unet', dims }, { runtime });
    expect(trainableInputs(model, program)).toEqual([
      'a.unet.up_blocks.0.hidden.0.weight',
      'a.unet.up_blocks.0.hidden.1.weight',
      'a.unet.up_blocks.1.hidden.0.weight',
      'a.unet.up_blocks.1.hidden.1.weight',
    ]);
    const live = [...program.inputs].filter(([, t]) => t.op.name === 'param');
    expect(live.filter(([name]) => name.startsWith('b.'))).toHaveLength(7);
    expect(live.some(([name]) => name.startsWith('unet.'))).toBe(false);
    await program.release();
  });
});
