export {
  checkAdapter,
  checkKind,
  type Declared,
  type Finding,
  laws,
  type MakeAdapter,
} from './check.ts';
export { describeAdapter, type TestRunner } from './describe.ts';
export { randomised, tinyDims, tinyModel, tinyUNet } from './tiny.ts';
