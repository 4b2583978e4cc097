import { describeAdapter } from '@attune/core/testing';
import { describe, test } from 'vitest';

import { lora } from '../src/index.ts';

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
