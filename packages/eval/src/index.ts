export { type Frames, outside, rowsOf, type Weighting } from './clip.ts';
export { maskedFeatureDistance, pairwiseCosine } from './features.ts';
export { flowValidity, motionEnergy, motionRatio, outsideBand, warpError } from './flow.ts';
export {
  bootstrapMean,
  type BootstrapOptions,
  excludes,
  type Interval,
  pairedDifference,
} from './intervals.ts';
export {
  backgroundOf,
  differenceMasks,
  medianFrame,
  motionClass,
  type MotionClass,
  type MotionThresholds,
  pocketThresholds,
  type Track,
  trackOf,
} from './motion.ts';
export { gradientEnergy, meanSquaredError, psnr, sharpness } from './picture.ts';
export { formatReport, meanRanks, type Metric, type Report, type ReportRow } from './report.ts';
