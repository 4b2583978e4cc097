import { input, OrtRuntime, Program, Weights } from '@attune/engine';
import { expect, test } from 'vitest';

import { classify } from '../src/index.ts';

const mean = (list: readonly number[]) => list.reduce((a, b) => a + b, 0) / list.length;

test('the cross-entropy of every head, weighted; an unknown label counts nothing', async () => {
  const heads = { 'logits.kind': input('kind', [3, 2]), 'logits.place': input('place', [3, 3]) };
  const objective = classify({ net: 'judge', weights: { place: 0.5 } });
  const { loss, metrics } = objective.trace(() => ({ ...heads, level: input('x', [1]) }), {});
  const program = new Program(
    { outputs: { loss, ...metrics }, marks: [] },
    { runtime: new OrtRuntime({ threads: 1 }), weights: Weights.fromArrays({}) },
  );
  const kind = Float32Array.of(2, 0, 0, 1, 0, 0);
  const place = Float32Array.of(0, 0, 0, 3, 0, 0, 0, 0, 1);
  const out = await program.run({
    kind: { dtype: 'f32', shape: [3, 2], data: kind },
    place: { dtype: 'f32', shape: [3, 3], data: place },
    'label.kind': { dtype: 'i64', shape: [3], data: BigInt64Array.of(0n, 0n, 1n) },
    'label.place': { dtype: 'i64', shape: [3], data: BigInt64Array.of(2n, 0n, -1n) },
  });
  await program.release();
  const kinds = [Math.log1p(Math.exp(-2)), Math.log1p(Math.E), Math.log(2)];
  const places = [Math.log(3), Math.log1p(2 * Math.exp(-3)), 0];
  expect(out.loss.data[0]).toBeCloseTo(mean(kinds) + 0.5 * mean(places), 5);
  expect(out['right.kind'].data[0]).toBeCloseTo(1 / 3, 5);
  expect(out['right.place'].data[0]).toBeCloseTo(1 / 3, 5);
});
