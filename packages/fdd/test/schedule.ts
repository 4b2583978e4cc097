/** The noise of the tests with known teachers: Stable Diffusion's, to zero signal at the end. */

import { NoiseSchedule } from '@attune/core';

export const schedule = NoiseSchedule.of({
  _class_name: 'DDIMScheduler',
  beta_start: 0.00085,
  beta_end: 0.012,
  beta_schedule: 'scaled_linear',
  rescale_betas_zero_snr: true,
  prediction_type: 'v_prediction',
  clip_sample: false,
});
