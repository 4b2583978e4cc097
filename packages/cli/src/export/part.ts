/** What a part of a stack is exported with: its sizes, its inputs and outputs by name, what they mean. */

import {
  type Dims,
  type Model,
  type Net,
  portShapes,
  scaleGates,
  type TraceRequest,
} from '@attune/core';
import { AttuneError, badArgument, type DType, type Shape } from '@attune/engine';

import { type PartName, partNets } from '../probe/run.ts';
import { framesAtOnce } from '../stack.ts';

/** Sizes as people give them; pixels, or latents where the model has no autoencoder. */
export interface Sizes {
  readonly batch: number;
  readonly frames: number;
  readonly height: number;
  readonly width: number;
  readonly tokens: number;
}

/** An input or output of a model that was written. */
export interface Value {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: Shape;
  /** One line for people. */
  readonly about: string;
}

export interface Part {
  readonly name: PartName;
  readonly request: TraceRequest;
  /** What inputs and outputs mean, by the names they have in the file. */
  readonly about: ReadonlyMap<string, string>;
}

/** The sizes asked for, the others as the stack was made for. */
export function sizesOf(model: Model, asked: Partial<Sizes>): Sizes {
  const factor = model.latents?.factor ?? 1;
  const [height, width] = (model.sampleSize ?? [64, 64]).map((side) => side * factor);
  const mixing = model.adapters.some(({ mixesFrames }) => mixesFrames);
  const sizes = {
    batch: asked.batch ?? 1,
    frames: asked.frames ?? (mixing ? framesAtOnce(model.adapters) : 1),
    height: asked.height ?? height,
    width: asked.width ?? width,
    tokens: asked.tokens ?? model.tokenizer?.maxLength ?? 77,
  };
  for (const side of ['height', 'width'] as const)
    if (sizes[side] % factor)
      throw badArgument(`--${side}`, String(sizes[side]), `give a multiple of ${factor}`);
  for (const { name, maxFrames = Infinity } of model.adapters)
    if (sizes.frames > maxFrames)
      throw badArgument(
        '--frames',
        `${sizes.frames}; the adapter ${name} sees at most ${maxFrames} at once`,
        'give fewer',
      );
  return sizes;
}

/** The parts of a model with these sizes; `all` are those it has. */
export function partsOf(model: Model, which: PartName | 'all', sizes: Sizes): Part[] {
  const names = (Object.keys(partNets) as PartName[]).filter(
    (name) => partNets[name] in model.nets,
  );
  if (which !== 'all' && !names.includes(which))
    throw new AttuneError('NO_NET', `The model has no ${which}; it has ${names.join(', ')}.`, {
      part: which,
    });
  return (which === 'all' ? names : [which]).map((name) => partOf(model, name, sizes));
}

function partOf(model: Model, name: PartName, sizes: Sizes): Part {
  const factor = model.latents?.factor ?? 1;
  const { batch: B, frames: F, height, width, tokens: L } = sizes;
  const side = name === 'vae-encoder' ? 1 : factor;
  const dims: Dims = { B, F, H: height / side, W: width / side, L };
  const net = partNets[name];
  const shapes =
    name === 'unet'
      ? { ...inputShapes(model.nets[net], dims), ...portShapes(model.adapters, dims) }
      : {};
  return { name, request: { net, dims, shapes }, about: meanings(model, name) };
}

const inputShapes = (net: Net, dims: Dims): Record<string, Shape> =>
  Object.fromEntries(Object.entries(net.signature(dims)).map(([key, { shape }]) => [key, shape]));

/** An output that shares the name of an input is called as diffusers' own ONNX exports call it. */
export const outputName = (name: string, inputs: { has(name: string): boolean }): string =>
  inputs.has(name) ? `out_${name}` : name;

const fixedMeanings: Readonly<Record<PartName, Readonly<Record<string, string>>>> = {
  unet: {
    sample: 'noisy latents, rows (clip, frame)',
    encoder_hidden_states: 'text states of the caption, a row for each clip',
  },
  'text-encoder': {
    input_ids: 'ids of the tokenizer, padded',
    last_hidden_state: 'text states',
    pooler_output: 'the state at the end token',
  },
  'vae-encoder': {
    pixels: 'RGB in [-1, 1]',
    latents: 'mean of the latents; the diffusion model wants (latents - shift) * scale',
    logvar: 'logarithm of their variance',
  },
  'vae-decoder': {
    latents: 'latents of the diffusion model / scale + shift',
    pixels: 'RGB, about [-1, 1]',
  },
};

function meanings(model: Model, name: PartName): Map<string, string> {
  const known = new Map(Object.entries(fixedMeanings[name]));
  for (const adapter of model.adapters)
    for (const [gate] of scaleGates(adapter)) {
      const place = gate.split('@')[1];
      known.set(gate, `strength of the adapter ${adapter.name}${place ? ` in ${place}` : ''}`);
    }
  if (name !== 'unet') return known;
  const { schedule } = model;
  known.set('timestep', `training time, 0 to ${(schedule?.length ?? 1000) - 1}, as a float`);
  known.set('out_sample', `raw prediction${schedule ? ` (${schedule.predictionType})` : ''}`);
  for (const { name: adapter, ports = {} } of model.adapters)
    for (const [port, { per, about }] of Object.entries(ports))
      known.set(
        `${adapter}.${port}`,
        `${about ?? `the port ${port} of the adapter ${adapter}`}, a row for each ${per}`,
      );
  return known;
}
