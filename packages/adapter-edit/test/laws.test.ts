import { describeAdapter, tinyUNet } from '@attune/core/testing';
import { describe, test } from 'vitest';

import { edit, EditConfig } from '../src/index.ts';

const plain = EditConfig.parse({ ...tinyUNet, conditioning_embedding_out_channels: [4, 8] });

describeAdapter('edit', (given) => edit({ config: plain, ...given }), { describe, test });

describeAdapter(
  'edit with three tasks and pooled conditions',
  (given) =>
    edit({
      config: {
        ...plain,
        num_class_embeds: 3,
        global_pool_conditions: true,
      },
      ...given,
    }),
  { describe, test },
);
