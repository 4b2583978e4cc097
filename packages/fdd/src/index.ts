export {
  type GradSteps,
  roll,
  type Rolled,
  type RolloutStep,
  type StudentSweeps,
  sweepBack,
} from './rollout.ts';
export {
  addSds,
  diffuse,
  type Draw,
  type Level,
  velocity,
  type Weighting,
  weightings,
} from './sds.ts';
export { type Denoiser, sdsCotangent, type SdsOptions, timeRange } from './teacher.ts';
