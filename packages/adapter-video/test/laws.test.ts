import { describeAdapter } from '@attune/core/testing';
import { describe, test } from 'vitest';

import { video, VideoConfig } from '../src/index.ts';

const plain = VideoConfig.parse({
  block_out_channels: [8, 16],
  motion_num_attention_heads: 2,
  motion_norm_num_groups: 4,
  motion_max_seq_length: 8,
});

describeAdapter('video', (given) => video({ config: plain, ...given }), { describe, test });

describeAdapter(
  'video with a first frame',
  (given) => video({ config: { ...plain, first_frame: true }, ...given }),
  { describe, test },
);

describeAdapter(
  'video with attention to the first frame and to the text',
  (given) =>
    video({
      config: { ...plain, first_frame: true, first_frame_attention: true, cross_attention_dim: 12 },
      ...given,
    }),
  { describe, test },
);
