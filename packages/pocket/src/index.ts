export { stacksFolder, modelsFolder } from './folders.ts';
export { images } from './data/images.ts';
export { labelled, sampleLabelled } from './data/labelled.ts';
export { Judge, recognised, type Seen } from './judge/judge.ts';
export { argmaxRows, type Head, HEAD_NAMES, HEADS, labelOf } from './judge/labels.ts';
export { classifier, ClassifierConfig } from './judge/net.ts';
export { default } from './plugin.ts';
export { metrics, type Scores, Scorer } from './suite/score.ts';
export { flowOf, framesOf, masksOf, type Split, type Trial, trialOf } from './suite/trial.ts';
export {
  type BackgroundName,
  BACKGROUNDS,
  type GlobalName,
  GLOBALS,
  type HatName,
  HATS,
  HELD_OUT_OBJECTS,
  HELD_OUT_STYLES,
  HELD_OUT_TASKS,
  type MotionName,
  MOTIONS,
  type ObjectName,
  OBJECTS,
  type PaintName,
  PAINTS,
  type StyleName,
  STYLES,
  type TaskName,
  TASKS,
  type TextureName,
  TEXTURES,
} from './world/catalogue.ts';
export { type Edit, editMask, sampleEdit } from './world/edits.ts';
export { momentOf, renderLong } from './world/long.ts';
export { FRAMES, type Pose, poseAt } from './world/motion.ts';
export { type Picture, SIDE } from './world/paint.ts';
export { type Clip, type Frame, renderClip, renderFrame } from './world/render.ts';
export { edited, type Fixed, sampleScene, type Scene } from './world/scene.ts';
export { clipCaption, imageCaption, instruct, motionWords, vocabulary } from './world/words.ts';
