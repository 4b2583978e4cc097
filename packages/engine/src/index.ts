export { grad } from './autodiff.ts';
export { AttuneError, badArgument, badFile, nearest, shapeMismatch } from './errors.ts';
export {
  constant,
  input,
  isFrozen,
  isInput,
  isLeaf,
  isParam,
  literal,
  param,
  type Rate,
  scalar,
} from './graph/leaf.ts';
export { defineOp, type Emitter, type OpRule, type Value } from './graph/op.ts';
export { flops, plan, type PlanOptions, type Segment, type Traced } from './graph/plan.ts';
export { show } from './graph/print.ts';
export { broadcast, sameShape, type Shape } from './graph/shape.ts';
export { ancestors, Tensor, tracePosition } from './graph/tensor.ts';
export { emit, type Emitted, type EmitRequest } from './onnx/emit.ts';
export { type ConvAttrs, conv2d } from './ops/conv.ts';
export {
  abs,
  add,
  clamp,
  cos,
  div,
  equal,
  erf,
  exp,
  floor,
  gelu,
  greater,
  leakyRelu,
  less,
  log,
  maximum,
  minimum,
  mul,
  neg,
  type Operand,
  quickGelu,
  reciprocal,
  relu,
  sigmoid,
  sign,
  silu,
  sin,
  softplus,
  sqrt,
  square,
  sub,
  tanh,
  where,
} from './ops/elementwise.ts';
export { accumulate, gemm, linear, matmul, split } from './ops/matmul.ts';
export {
  attention,
  groupNorm,
  layerNorm,
  logSoftmax,
  logSumExp,
  mean,
  normalize,
  softmax,
} from './ops/normalize.ts';
export {
  argmax,
  cast,
  concat,
  expand,
  flipKernel,
  gather,
  pad,
  reshape,
  scatterAdd,
  slice,
  sum,
  sumTo,
  swap,
  transpose,
  upsample,
  values,
} from './ops/structural.ts';
export {
  bytesOf,
  type DType,
  f32,
  type F32Array,
  fromBytes,
  i64,
  itemSize,
  type NDArray,
  scan,
  sizeOf,
  toF32,
  toHalf,
  type TypedArray,
  zeros,
} from './runtime/array.ts';
export { FixedValues } from './runtime/fixed.ts';
export type { Feeds } from './runtime/part.ts';
export { type Clip, Program, type ProgramOptions } from './runtime/program.ts';
export { Rng } from './runtime/rng.ts';
export {
  type Budget,
  type Cotangents,
  type Remat,
  type Sweep,
  type Tape,
} from './runtime/sweep.ts';
export {
  type Device,
  devices,
  type Profile,
  type Runtime,
  type RuntimeOptions,
  type Session,
} from './runtime/runtime.ts';
export { OrtRuntime } from './runtime/session.ts';
export { hashOf, makeFolder } from './weights/file.ts';
export { type FileHash, HashBook } from './weights/hashes.ts';
export { keysInOrder, parseJson, readText } from './weights/json.ts';
export { type WeightEntry, Weights } from './weights/store.ts';
export { reshaped, rows } from './weights/view.ts';
export {
  encodeSafetensors,
  openSafetensors,
  type SafetensorsFile,
  writeSafetensors,
} from './weights/safetensors.ts';
