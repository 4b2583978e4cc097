/** Pocket as a plugin: its data for the training command. */

import { dataKind, definePlugin } from '@attune/core';
import { z } from 'zod';

import { images } from './data/images.ts';

export default definePlugin({
  api: 1,
  contributes: {
    data: { images: dataKind({ options: z.strictObject({}), create: images }) },
  },
});
