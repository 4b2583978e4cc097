// @ts-check
import { definePlugin, samplerKind, ScheduleConfig } from '@attune/core';
import { z } from 'zod';

import { heunPlan } from './heun.js';

export { heunPlan } from './heun.js';

const Options = z.strictObject({
  /** Default: the schedule's. */
  spacing: ScheduleConfig.shape.timestep_spacing.unwrap().optional(),
  karras: z.boolean().default(false),
});

export default definePlugin({
  api: 1,
  contributes: {
    samplers: {
      heun: samplerKind({
        options: Options,
        create: (options) => (schedule, steps) => heunPlan(schedule, steps, options),
      }),
    },
  },
});
