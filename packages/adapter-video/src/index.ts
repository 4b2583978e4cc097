export { VideoConfig } from './config.ts';
export { temporalTransformer } from './temporal.ts';
export { video, type VideoOptions } from './video.ts';
