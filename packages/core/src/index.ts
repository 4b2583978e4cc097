export {
  type Adapter,
  type FileExtras,
  checkpointKey,
  type Port,
  type PortType,
  portShapes,
  type Ports,
  type PortValues,
  type Tap,
} from './adapters/adapter.ts';
export {
  compile,
  compose,
  inventory,
  layerNames,
  type Inventory,
  materialize,
  traceModel,
  traceNet,
  type TraceRequest,
  trainability,
} from './adapters/compose.ts';
export {
  type Picture,
  type Route,
  type Routed,
  type RouteProblem,
  routeProblems,
  type Routes,
  routesOf,
  routeText,
  type SourceName,
  sources,
} from './adapters/routes.ts';
export { clipStrengths, standingFeeds, strengthsAt, trainableInputs } from './adapters/feeds.ts';
export { type ReadImage, readTensorImage } from './stack/routes.ts';
export {
  type ReadMask,
  readStrength,
  readTensorMask,
  strengthsByAddress,
} from './stack/strength.ts';
export type { Modulation, Strength, StrengthValue } from './adapters/strength.ts';
export { numberAt, scaleGates } from './adapters/strength.ts';
export { clipText } from './models/clip.ts';
export { ClipTextConfig, TinyVaeConfig, UNetConfig } from './models/config.ts';
export type { Model } from './models/model.ts';
export type { Dims, InputType, Net } from './models/net.ts';
export { tinyDecoder, tinyEncoder } from './models/tiny-vae.ts';
export { type Encoded, encoder, type EncoderInputs, unet } from './models/unet.ts';
export { matcher, pattern, type Selector, type SiteKind } from './nn/address.ts';
export { attend, attention } from './nn/attention.ts';
export { feedForward } from './nn/blocks.ts';
export { type Init, normal, ones, uniform, zeros } from './nn/init.ts';
export { conv, embedding, groupNorm, layerNorm, linear, toImage, toTokens } from './nn/layers.ts';
export { addRows, lift, type Rows } from './nn/rows.ts';
export {
  type AttentionSite,
  type Call,
  type LayerSite,
  makeCall,
  type ParamInfo,
  Scope,
  type Site,
  Trace,
} from './nn/scope.ts';
export {
  type AdapterFile,
  type AdapterKind,
  type AdapterRequest,
  type FormatSample,
  type MergeRequest,
  type WriteRequest,
  type Written,
  adapterKind,
  dataKind,
  type DataKind,
  definePlugin,
  type Detection,
  type KindExample,
  type NetKind,
  netKind,
  type ObjectiveKind,
  objectiveKind,
  type SamplerKind,
  samplerKind,
  type Contestant,
  type Plugin,
  type SuiteContext,
  type SuiteKind,
  suiteKind,
  type Verdict,
} from './plugins/plugin.ts';
export {
  cachedCommit,
  cachedPath,
  type Environment,
  hubCache,
  hubHome,
  pulled,
  type RepoFolders,
  repoFolders,
} from './hub/cache.ts';
export {
  type HubReference,
  hubReferenceText,
  isCommit,
  isHubReference,
  isInside,
  parseHubReference,
} from './hub/reference.ts';
export { baseFamily, strangeFamilies, strangeFamily } from './models/families.ts';
export { readJson, readPart, readWeights, weightName, weightVariants } from './models/folder.ts';
export { createContainer, LoaderToken, RuntimeToken } from './container.ts';
export { loadModel, modelParts } from './models/load.ts';
export { nominalDims } from './models/net.ts';
export { type LoaderOptions, loadPlugin, PluginLoader } from './plugins/loader.ts';
export {
  apiVersion,
  type ContributionKind,
  contributionKinds,
  type FoundPlugin,
  type PluginManifest,
} from './plugins/manifest.ts';
export {
  entryOf,
  findPlugins,
  installedFolder,
  type PackagePlace,
  packagePlaces,
  readPackage,
  readPlugin,
} from './plugins/package.ts';
export {
  type ModuleFit,
  type Survey,
  surveyAdapter,
  surveyPart,
  type SurveyedModule,
  surveyNets,
} from './plugins/survey.ts';
export { blamed, Divergence, firstNotFinite } from './train/finite.ts';
export { type Finding, checkParts, checkStack, findingText } from './stack/check.ts';
export {
  type Interference,
  interference,
  type Interplay,
  type Overlap,
} from './stack/interference.ts';
export {
  currentProof,
  fingerprint,
  lockDiff,
  lockFileOf,
  lockOf,
  lockText,
  Proof,
  readLock,
  recipeLockText,
  refuseDrift,
  refuseRecipeDrift,
  StackLock,
} from './stack/lock.ts';
export {
  backbonePaths,
  type OpenOptions,
  openStack,
  readAdapterFile,
  readStackParts,
  refuseConflicts,
  type StackPart,
  type StackParts,
} from './stack/open.ts';
export { prove } from './stack/proof.ts';
export { openSampler } from './stack/sampler.ts';
export {
  checkFile,
  entryName,
  parseYaml,
  RouteEntry,
  Sampling,
  StackEntry,
  StackFile,
  stackText,
  StrengthEntry,
  StrengthValueEntry,
} from './stack/schema.ts';
export { AutoencodeOptions, autoencode } from './train/autoencode.ts';
export type { DataSource } from './train/data.ts';
export { classify, ClassifyOptions } from './train/classify.ts';
export { DenoiseOptions, denoise } from './train/denoise.ts';
export type { Objective } from './train/objective.ts';
export { TrainRecipe } from './train/recipe.ts';
export { BatchSize, type StepReport, train, TrainConfig, type TrainState } from './train/run.ts';
export { runTraining } from './train/start.ts';
export { default } from './plugins/builtin.ts';
export { type Guidance, guidanceBranches, guide } from './sample/guidance.ts';
export { type FirstStep, kBin } from './schedule/bins.ts';
export { ddim, ddimPlan } from './schedule/ddim.ts';
export { mix, noised, type Pair, target, toClean, toNoise, toVelocity } from './schedule/forms.ts';
export {
  NoiseSchedule,
  type PredictionType,
  ScheduleConfig,
  type Spacing,
} from './schedule/noise.ts';
export { type Plan, type Sampler, type Step, takeStep } from './schedule/sampler.ts';
export {
  checkpointLayout,
  checkpointPredicts,
  hasAverage,
  inCheckpoint,
  isCheckpoint,
  type Predicts,
} from './models/checkpoint.ts';
export { type Format, formatsOf } from './plugins/formats.ts';
export { createPartly, type PartlyMade, type Skipped, skippedText } from './plugins/partial.ts';
export { checkTold, type Telling } from './plugins/dialect.ts';
export { fromLdm, inferUNet, isLdm, ldmLayers, type LdmLayout, toLdm } from './models/ldm.ts';
export { Tokenizer } from './models/tokenizer.ts';
export { trainWordTokenizer } from './models/bpe.ts';
export { type Compiled, ModelRunner } from './sample/runner.ts';
export { type Adjust, sample, type SampleRequest } from './sample/sample.ts';
export { generate, type Generated, type GenerateOptions } from './sample/generate.ts';
export { type EditModels, editFrames, type EditRequest } from './sample/edit.ts';
export { continuing, fusing, fusionWeights, type Join, joins } from './sample/join.ts';
export { type EditTexts, type LaterTexts, sharesOf, turnsOf } from './sample/texts.ts';
export { type Window, windows, type WindowSize } from './sample/window.ts';
export { type Learner, packLearner, type Params, unpackLearner } from './train/learner.ts';
export { adamw, clipByGlobalNormInPlace, type OptimState } from './train/optim.ts';
export { emaUpdate } from './train/rates.ts';
export type { Checkpoint } from './train/checkpoint.ts';
export { CheckpointPlan, drive, type Outcome, type RunRequest } from './train/drive.ts';
export { exportTrained } from './train/export.ts';
export { sideBySide } from './train/lanes.ts';
