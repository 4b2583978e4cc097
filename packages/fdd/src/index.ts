export {
  type GradSteps,
  roll,
  type Rolled,
  type RolloutStep,
  type StudentSweeps,
  sweepBack,
} from './rollout.ts';
export { addSds, diffuse, type Level, velocity, type Weighting, weightings } from './sds.ts';
