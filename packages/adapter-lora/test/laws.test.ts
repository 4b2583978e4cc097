import { compile, compose, materialize } from '@attune/core';
import { describeAdapter, tinyDims, tinyModel } from '@attune/core/testing';
import { OrtRuntime } from '@attune/engine';
import { describe, expect, test } from 'vitest';

import { lora, type LoraOptions } from '../src/index.ts';

describeAdapter('lora', (given) => lora({ rank: 2, ...given }), { describe, test });

describeAdapter(
  'lora on every linear and convolution layer',
  (given) =>
    lora({
      rank: 2,
      alpha: 6,
      targets: [
        'unet.**.conv1',
        'unet.**.conv2',
        'unet.conv_in',
        'unet.**.to_*',
        'unet.**.to_out.0',
        'unet.**.linear_*',
      ],
      ...given,
    }),
  { describe, test },
);

for (const algorithm of ['loha', 'lokr', 'full'] as const)
  describeAdapter(algorithm, (given) => lora({ algorithm, rank: 2, ...given }), { describe, test });

/** How many parameters are fed to a model with such an adapter. */
const fed = (options: LoraOptions) => {
  const model = compose(tinyModel(), lora({ targets: ['unet.**.to_q'], rank: 2, ...options }));
  const program = compile(
    materialize(model, { dims: tinyDims }),
    { net: 'unet', dims: tinyDims },
    { runtime: new OrtRuntime() },
  );
  return [...program.inputs.values()].filter((t) => t.op.name === 'param').length;
};

test('small matrices of LoRA are fed; what a frozen adapter of another kind changes is fixed', () => {
  expect(fed({})).toBeGreaterThan(0);
  for (const algorithm of ['loha', 'lokr', 'full'] as const) {
    expect(fed({ algorithm })).toBe(0);
    expect(fed({ algorithm, train: true })).toBeGreaterThan(0);
  }
});
