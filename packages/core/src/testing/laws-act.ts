/** Laws of what an adapter does to a result: identity, strength, order, determinism. */

import { type Adapter, compose } from '@attune/core';
import { f32, type F32Array, mul, sub } from '@attune/engine';

import { type Arrays, distance, sameBits } from './bench.ts';
import { fails, holds, type Law, within } from './law.ts';

const close = 1e-6;

const identity: Law = {
  name: 'starts as the identity',
  check: async ({ bench, make, startsAsIdentity }) => {
    if (!startsAsIdentity) return holds('declared to act from the start');
    const error = distance(await bench.run(bench.fresh(make())), await bench.run(bench.base));
    return within(error, close, 'a fresh adapter changes the result by');
  },
};

const fixedZero: Law = {
  name: 'fixed strength 0 is the model itself',
  check: async ({ bench, make }) => {
    const off = bench.fresh(make({ strength: 0 }));
    if (bench.bytes(off) !== bench.bytes(bench.base)) return fails('other ONNX bytes');
    return sameBits(await bench.run(off), await bench.run(bench.base))
      ? holds('same bytes, same bits')
      : fails('same ONNX bytes, other results');
  },
};

const fedZero: Law = {
  name: 'strength 0 while running changes nothing',
  check: async ({ bench, make }) => {
    const adapter = make();
    const off = { [`gate.${adapter.name}`]: f32([0], []) };
    const error = distance(await bench.run(bench.moved(adapter), off), await bench.run(bench.base));
    return within(error, close, 'relative change');
  },
};

/** Steps at which Δ(s) is compared with 2Δ(s/2): small enough to be linear, large enough for f32. */
const strengths = [2 ** -4, 2 ** -6, 2 ** -8];

const proportional: Law = {
  name: 'the change is proportional to the strength as it goes to 0',
  check: async ({ bench, make }) => {
    const adapter = make();
    const model = bench.moved(adapter);
    const base = await bench.run(bench.base);
    return bench.with(model, async (program) => {
      const change = async (s: number): Promise<Float64Array> => {
        const gate = { [`gate.${adapter.name}`]: f32([s], []) };
        return difference(await program.run(bench.feeds(model, program, gate)), base);
      };
      let best = Number.POSITIVE_INFINITY;
      for (const s of strengths) {
        const [whole, half] = [await change(s), await change(s / 2)];
        const size = norm(whole);
        if (size === 0) return fails(`at strength ${s} nothing changes: it acts nowhere`);
        best = Math.min(best, norm(whole.map((value, i) => value - 2 * half[i])) / size);
      }
      return within(best, 0.05, 'relative curvature');
    });
  },
};

function difference(got: Arrays, want: Arrays): Float64Array {
  const all = Object.keys(want).flatMap((name) => {
    const [a, b] = [got[name] as F32Array, want[name] as F32Array];
    return Array.from(a.data, (value, i) => value - b.data[i]);
  });
  return Float64Array.from(all);
}

const norm = (values: Float64Array): number =>
  Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));

const order: Law = {
  name: 'order: compose(compose(m, a), b) is compose(m, a, b), and it commutes where declared',
  check: async ({ bench, make }) => {
    const [a, b] = [make(), make({ name: 'twin' })];
    const both = bench.moved(a, b);
    const nested = { ...compose(compose(bench.base, a), b), weights: both.weights };
    if (bench.bytes(nested) !== bench.bytes(both)) return fails('nesting gives other ONNX bytes');
    if (!a.commutes) return holds('not declared to commute');
    const forth = await bench.run(both);
    const back = await bench.run({ ...both, adapters: [b, a] });
    const scale = layerScale(bench.net);
    const scaled = bench.moved(a, scale);
    const [after, before] = [scaled, { ...scaled, adapters: [scale, a] }];
    const error = Math.max(
      distance(back, forth),
      distance(await bench.run(before), await bench.run(after)),
    );
    return within(error, 1e-5, 'swapping it with a twin or a weight delta changes the result by');
  },
};

/** W′ = 1.1 W on every layer of the net, as a weight delta. */
const layerScale = (net: string): Adapter => ({
  name: 'layer-scale',
  commutes: true,
  attach: () => [
    {
      at: `${net}.**`,
      delta: (_, { layer }) => {
        const { apply, weight, bias, output } = layer!;
        return sub(apply(mul(weight, 1.1), bias), output);
      },
    },
  ],
});

const deterministic: Law = {
  name: 'deterministic: equal traces, equal bits',
  check: async ({ bench, make }) => {
    const [once, again] = [bench.moved(make()), bench.moved(make())];
    if (bench.bytes(once) !== bench.bytes(again)) return fails('two traces give other ONNX bytes');
    return sameBits(await bench.run(once), await bench.run(again))
      ? holds('same bytes, same bits')
      : fails('two runs give other bits');
  },
};

export const actLaws = [identity, fixedZero, fedZero, proportional, order, deterministic];
