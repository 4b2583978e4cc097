import { expect, test } from 'vitest';
import { checkGrad } from '../src/testing/index.ts';
import { add, attention, conv2d, groupNorm, input, linear, mul, OrtRuntime, param, Program, reshape, Rng, silu, sum, tracePosition, Weights, layerNorm, softmax, f32, swap, upsample, gelu } from '../src/index.ts';

test('grads', async () => {
  const r = async (n: string, f: any, s: any, o: any = {}) => { const c = await checkGrad(f, s, o); console.log(n, c.exact.toFixed(5), c.numeric.toFixed(5), c.relative); };
  await r('conv', (x: any, w: any, b: any) => conv2d(x, w, b, { padding: 1 }), [[2, 3, 5, 6], [4, 3, 3, 3], [4]]);
  await r('conv s2', (x: any, w: any, b: any) => conv2d(x, w, b, { stride: 2, padding: 1 }), [[2, 3, 5, 6], [4, 3, 3, 3], [4]]);
  await r('conv s2 even asym', (x: any, w: any) => conv2d(x, w, undefined, { stride: 2, padding: [0, 0, 1, 1] }), [[2, 3, 6, 6], [4, 3, 3, 3]]);
  await r('gn', (x: any, w: any, b: any) => groupNorm(x, 2, w, b), [[2, 4, 3, 3], [4], [4]]);
  await r('ln', (x: any, w: any, b: any) => layerNorm(x, w, b), [[2, 3, 8], [8], [8]]);
  await r('att', (q: any, k: any, v: any) => attention(q, k, v), [[2, 3, 4], [2, 5, 4], [2, 5, 4]]);
  await r('lin', (x: any, w: any, b: any) => gelu(silu(linear(x, w, b))), [[2, 3, 4], [5, 4], [5]]);
  await r('up', (x: any) => softmax(upsample(x, 2)), [[1, 2, 3, 3]]);
});
