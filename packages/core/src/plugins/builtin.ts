/** What core itself contributes, through the same door as every plugin. */

import { z } from 'zod';

import { ddimPlan } from '../schedule/ddim.ts';
import { dpmPlan } from '../schedule/dpm.ts';
import { eulerPlan } from '../schedule/euler.ts';
import { lcmPlan } from '../schedule/lcm.ts';
import { ScheduleConfig } from '../schedule/noise.ts';
import { autoencode, AutoencodeOptions } from '../train/autoencode.ts';
import { classify, ClassifyOptions } from '../train/classify.ts';
import { denoise, DenoiseOptions } from '../train/denoise.ts';
import { apiVersion } from './manifest.ts';
import { definePlugin, objectiveKind, samplerKind } from './plugin.ts';

/** Default: the schedule's. */
const spacing = ScheduleConfig.shape.timestep_spacing.unwrap().optional();
const Grid = z.strictObject({ spacing, karras: z.boolean().default(false) });
const steps = z.int().positive();

/**
 * The plugin that core is: objectives `autoencode`, `classify`, `denoise`; samplers `ddim`, `dpmpp-2m`,
 * `euler`, `lcm`.
 */
export default definePlugin({
  api: apiVersion,
  contributes: {
    objectives: {
      autoencode: objectiveKind({ options: AutoencodeOptions, create: autoencode }),
      classify: objectiveKind({ options: ClassifyOptions, create: classify }),
      denoise: objectiveKind({ options: DenoiseOptions, create: denoise }),
    },
    samplers: {
      ddim: samplerKind({
        options: z.strictObject({ eta: z.number().min(0).max(1).default(0), spacing }),
        create: (options) => (schedule, count) => ddimPlan(schedule, count, options),
      }),
      'dpmpp-2m': samplerKind({
        options: Grid,
        create: (options) => (schedule, count) => dpmPlan(schedule, count, options),
      }),
      euler: samplerKind({
        options: Grid,
        create: (options) => (schedule, count) => eulerPlan(schedule, count, options),
      }),
      lcm: samplerKind({
        options: z.strictObject({
          original: steps.default(50),
          timestep_scaling: z.number().positive().default(10),
        }),
        create:
          ({ original, timestep_scaling: timestepScaling }) =>
          (schedule, count) =>
            lcmPlan(schedule, count, { original, timestepScaling }),
      }),
    },
  },
});
