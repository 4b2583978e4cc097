/** Small whole models in folders, adapters opened on them by a stack file, and what both then do. */

import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import {
  compile,
  type Dims,
  findPlugins,
  inventory,
  loadModel,
  type Model,
  nominalDims,
  openStack,
  PluginLoader,
  StackFile,
  standingFeeds,
} from '@attune/core';
import {
  AttuneError,
  f32,
  type F32Array,
  i64,
  type NDArray,
  OrtRuntime,
  Rng,
  type Shape,
  writeSafetensors,
} from '@attune/engine';
import { expect } from 'vitest';

import { inspect, type Verdict } from '../../packages/cli/src/inspect/verdict.ts';

export const loader = new PluginLoader(findPlugins('packages/cli'));
const runtime = new OrtRuntime({ threads: 1 });
const folder = mkdtempSync(join(tmpdir(), 'wholes-'));
export const at = (name: string): string => join(folder, name);

export type Tensors = Readonly<Record<string, NDArray>>;
type Config = Readonly<Record<string, unknown>>;

/** Writes a file of a name without its ending, and returns its path. */
export function written(
  name: string,
  tensors: Tensors,
  metadata: Readonly<Record<string, string>> = {},
): string {
  const path = at(`${name}.safetensors`);
  writeSafetensors(path, tensors, metadata);
  return path;
}

/** Values of the size that training leaves: near one for what scales, by the inputs for what multiplies. */
export function drawn(rng: Rng, name: string, shape: Shape): F32Array {
  const values = rng.fork(name).normals(shape);
  const scales = shape.length === 1 && name.endsWith('.weight');
  const inputs = shape.slice(1).reduce((a, b) => a * b, 1);
  const by = shape.length === 1 ? 0.1 : 1 / Math.sqrt(inputs);
  return f32(
    values.data.map((v) => (scales ? 1 : 0) + by * v),
    shape,
  );
}

/** A UNet of two or three levels, of widths that are multiples of `unit`. */
export function randomUNet(
  rng: Rng,
  { unit = 4, more = {} }: { unit?: number; more?: Config } = {},
) {
  const levels = 2 + rng.int(2);
  const attends = Array.from({ length: levels }, (_, i) => rng.fork('on', i).uniform() < 0.6);
  const layers = 1 + rng.int(2);
  const config = {
    block_out_channels: attends.map((_, i) => unit * (1 + rng.fork('width', i).int(3))),
    down_block_types: attends.map((on) => (on ? 'CrossAttnDownBlock2D' : 'DownBlock2D')),
    up_block_types: attends.toReversed().map((on) => (on ? 'CrossAttnUpBlock2D' : 'UpBlock2D')),
    layers_per_block: layers,
    use_linear_projection: rng.uniform() < 0.5,
    cross_attention_dim: 8,
    attention_head_dim: 2,
    norm_num_groups: 2,
    ...more,
  };
  return { attends, layers, config };
}

const text = {
  vocab_size: 16,
  hidden_size: 8,
  intermediate_size: 12,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  max_position_embeddings: 8,
  eos_token_id: 1,
};

/** Configs of the parts of a model folder; `true` is a small text encoder. */
export interface Parts {
  readonly unet?: Config;
  readonly vae?: Config;
  readonly text_encoder?: true | Config;
}

const parts = {
  unet: ['UNet2DConditionModel', 'diffusion_pytorch_model.safetensors'],
  vae: ['AutoencoderKL', 'diffusion_pytorch_model.safetensors'],
  text_encoder: ['CLIPTextModel', 'model.safetensors'],
} as const;

/** A model folder as diffusers writes it, with random weights; these by name, beside its path. */
export async function modelFolder(
  name: string,
  rng: Rng,
  configs: Parts,
): Promise<{ readonly path: string; readonly weights: Tensors }> {
  const path = at(name);
  for (const [part, [className]] of Object.entries(parts)) {
    const own = configs[part as keyof Parts];
    if (!own) continue;
    mkdirSync(join(path, part), { recursive: true });
    const config = { _class_name: className, ...(own === true ? text : own) };
    writeFileSync(join(path, part, 'config.json'), JSON.stringify(config));
  }
  const { params } = inventory(await loadModel(path, { fresh: true }), nominalDims);
  const weights = Object.fromEntries(
    [...params.values()].map((param) => [param.name, drawn(rng, param.name, param.shape)]),
  );
  writeWeights(path, weights);
  return { path, weights };
}

/** Writes weights into a model folder, under other names where `rename` says so. */
export function writeWeights(
  path: string,
  weights: Tensors,
  rename: (key: string) => string = (key) => key,
): void {
  for (const [part, [, file]] of Object.entries(parts)) {
    const own = Object.entries(weights).flatMap(([key, array]) =>
      key.startsWith(`${part}.`) ? [[rename(key.slice(part.length + 1)), array] as const] : [],
    );
    if (own.length) writeSafetensors(join(path, part, file), Object.fromEntries(own));
  }
}

/** Opens a stack with these adapters. */
export const opened = (backbone: string, ...adapters: readonly Config[]): Promise<Model> =>
  openStack(StackFile.parse({ backbone, adapters }), '.', loader);

const dims: Dims = { B: 1, F: 2, H: 8, W: 8, L: 5 };

/** What a net of the model gives for `given`, and otherwise for inputs that their names decide. */
export async function effect(model: Model, net: string, given: Tensors = {}): Promise<NDArray> {
  const [, L] = given.input_ids?.shape ?? [];
  const sizes = L === undefined ? dims : { ...dims, L };
  const program = compile(model, { net, dims: sizes }, { runtime });
  const feeds: Record<string, NDArray> = { ...standingFeeds(model, program), ...given };
  for (const [name, { shape, dtype }] of program.inputs)
    if (!feeds[name])
      feeds[name] =
        name === 'timestep'
          ? f32([300], shape)
          : dtype === 'i64'
            ? i64([0, 5, 9, 3, 1], shape)
            : Rng.of(51).fork(name).normals(shape);
  const outputs = await program.run(feeds);
  await program.release();
  return outputs[Object.keys(outputs)[0]];
}

/** The verdict on a file, against the backbone that it is for. */
export const verdictOn = async (path: string, backbone?: string): Promise<Verdict> =>
  inspect(path, { loader, ...(backbone ? { base: await loadModel(backbone) } : {}) });

/** One way to spoil a file: its tensors with one of them gone, of another shape, or no longer finite. */
const damages = {
  dropped: (tensors: Tensors, key: string): Tensors =>
    Object.fromEntries(Object.entries(tensors).filter(([name]) => name !== key)),
  misshaped: (tensors: Tensors, key: string): Tensors => ({
    ...tensors,
    [key]: longer(tensors[key]),
  }),
  'not finite': (tensors: Tensors, key: string): Tensors => {
    const { shape, data } = tensors[key];
    const values = Float32Array.from(data as Float32Array, (v, i) => (i === 0 ? Number.NaN : v));
    return { ...tensors, [key]: f32(values, shape) };
  },
};

/** One row more along the last axis. */
function longer({ shape, data }: NDArray): F32Array {
  const last = shape[shape.length - 1] ?? 1;
  const wide = [...shape.slice(0, -1), last + 1];
  const values = new Float32Array(wide.reduce((a, b) => a * b, 1));
  return f32(
    values.map((_, i) => Number(data[i % data.length])),
    wide,
  );
}

export interface Damaged {
  readonly rng: Rng;
  readonly tensors: Tensors;
  /** Tensors that a whole file may lack. */
  readonly optional?: RegExp;
  readonly backbone?: string;
  readonly write: (tensors: Tensors) => string;
  /** Opens the file for use, as far as that goes without reading values. */
  readonly use: (path: string) => Promise<unknown>;
  /** Names by which a refusal may call a tensor, beside its own. */
  readonly names: (key: string) => readonly string[];
}

/** Spoils a tensor in each way: inspect refuses the file by the tensor's name, and so does whoever uses it. */
export async function damaged(file: Damaged): Promise<void> {
  const { rng, tensors, optional, backbone, write, use, names } = file;
  for (const [way, damage] of Object.entries(damages)) {
    const keys = Object.keys(tensors).filter((key) => way !== 'dropped' || !optional?.test(key));
    if (keys.length === 0) continue;
    const key = rng.fork(way).pick(keys);
    const path = write(damage(tensors, key));
    // inspect counts modules: what a tensor's name is without its last part.
    const known = [key, ...names(key)].flatMap((name) => [name, name.replace(/\.[^.]+$/, '')]);
    const says = (message: string | null): boolean => known.some((name) => message?.includes(name));
    const { verdict, reason } = await verdictOn(path, backbone);
    expect({ way, key, verdict, reason, named: says(reason) }).toEqual({
      way,
      key,
      verdict: 'refused',
      reason,
      named: true,
    });
    // What is in a tensor is not looked at while a stack is opened.
    if (way === 'not finite') continue;
    const error = await use(path).then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    const message = AttuneError.is(error) ? error.message : `no error of ours: ${String(error)}`;
    expect({ way, key, message, named: says(message) }).toEqual({ way, key, message, named: true });
  }
}
