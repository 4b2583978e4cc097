export { type GradSteps, roll, type Rolled, type RolloutStep, sweepBack } from './rollout.ts';
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
export { DeltaConfig, DistillConfig, FakeConfig, Phase, TeacherConfig } from './config.ts';
export { distill, type Distillation, type DistillReport, type DistillState } from './distill.ts';
export { FakeScore, type FakeOptions, type FakeTurn, type ReadyFake } from './fake.ts';
export { ModelTeacher, type ReadyTeacher } from './model-teacher.ts';
export { DistillRecipe, type DistillRunOptions, runDistillation } from './run.ts';
export { drawTimes, Student } from './student.ts';
export { type DataBatch, look } from './view.ts';
