/** THE CONTRACT: an adapter is a name, typed ports, parameters and taps that return deltas. */

import {
  AttuneError,
  type DType,
  input,
  type NDArray,
  type Shape,
  type Tensor,
  type Weights,
} from '@attune/engine';

import type { Dims } from '../models/net.ts';
import type { Selector } from '../nn/address.ts';
import type { Scope, Site } from '../nn/scope.ts';
import type { ScheduleConfig } from '../schedule/noise.ts';
import type { SourceName } from './routes.ts';
import type { Strength } from './strength.ts';

/** A conditioning input of an adapter, fed under the name `<adapter>.<port>`. */
export interface Port {
  /** Whether one value belongs to a clip (1, B or B·F rows) or to a frame (F or B·F rows). */
  readonly per: 'clip' | 'frame';
  /** Shape of one row, from the sizes of the call. */
  shape(dims: Dims): Shape;
  readonly dtype?: DType;
  /** `step` for what changes at every sampling step. Default `clip`. */
  readonly rate?: 'clip' | 'step';
  /** What is fed and in which range, for people. */
  readonly about?: string;
  /** The input of the net that stands in when the port is not fed; without it the port is required. */
  readonly defaultTo?: string;
  /** What runs may feed it, as routes say; without it only code can. */
  readonly takes?: PortType;
  /** What of a run it is fed where no route says otherwise: a name of `sources`. */
  readonly source?: SourceName;
}

/**
 * `text`: the text encoder's states of a text. `image`: pictures, RGB in [0, 1]. `latents`: a clean latent as
 * the model scales it. `label`: a whole number.
 */
export type PortType = 'text' | 'image' | 'latents' | 'label';

/** The ports of an adapter by their own names, without the adapter's. */
export type Ports = Readonly<Record<string, Port>>;

/** The ports as tensors; reading one makes it an input of the program. */
export type PortValues = Readonly<Record<string, Tensor>>;

/** An act at the sites a selector matches. Core computes value + gate · delta, in array order. */
export interface Tap {
  readonly at: Selector;
  /** The change to `value`, of the value's shape (or with more rows: B becomes B·F). */
  delta(value: Tensor, site: Site): Tensor;
}

/** What a file of an adapter holds that is no parameter, kept for when it is saved again. */
export interface FileExtras {
  readonly metadata: Readonly<Record<string, string>>;
  readonly tensors: Readonly<Record<string, NDArray>>;
}

/**
 * What is stacked on a model: where it acts, what it adds there, what it reads, and what it says about
 * itself, so that stacks are checked before any weight is read. A plain object; `compose` puts it on a
 * model. Its laws are checked by `@attune/core/testing`.
 */
export interface Adapter {
  /** Unique in its stack, without a dot, no net's name: the first part of its parameters' names. */
  readonly name: string;
  readonly ports?: Ports;
  /** Its parameters, named without the adapter's name. Absent: freshly initialised. */
  readonly weights?: Weights;
  /** What a fresh parameter starts from where this has its name and shape, instead of chance. */
  readonly initial?: Weights;
  /** Parameters are inputs of every program (low-rank matrices) even when they do not train. */
  readonly live?: boolean;
  /** What trains: everything, or the parameters whose names match (patterns over names). */
  readonly train?: true | readonly string[];
  readonly strength?: Strength;
  /** True when a frame's result depends on the other frames of its clip. */
  readonly mixesFrames?: boolean;
  /** The most frames it can see at once. */
  readonly maxFrames?: number;
  /**
   * True when guidance meets it in its full condition alone: in every other branch it adds nothing, as a
   * ControlNet in guess mode.
   */
  readonly conditional?: boolean;
  /** True when it may be swapped with its neighbours that say so, too: no delta of it reads its value. */
  readonly commutes?: boolean;
  /** The noise and the prediction type it was trained with, as keys of a scheduler config. */
  readonly trainedWith?: Readonly<Partial<ScheduleConfig>>;
  /** The SPDX identifier of the terms its weights come under. */
  readonly license?: string;
  /** The key of one of its parameters in the file it came from, in that file's dialect. Absent: its own name. */
  fileKey?(name: string): string;
  /** Names that other tools give one of its layers; all without the adapter's name. */
  aliases?(layer: string): readonly string[];
  /** Words it adds to the model's tokenizer, each with the number of ids that it stands for. */
  readonly words?: Readonly<Record<string, number>>;
  /** What its file does not say by itself: it is saved as a folder with this as config.json. */
  readonly config?: Readonly<Record<string, unknown>>;
  /** What its file holds beside its parameters: header metadata, tensors such as alphas. */
  readonly fileExtras?: FileExtras;
  /** Called once per trace; traces nothing by itself. */
  attach(scope: Scope, ports: PortValues): readonly Tap[];
}

/** A parameter's name with its adapter's file key: `look.unet.X` is `look.lora_unet_X` of a kohya file. */
export function checkpointKey(adapters: readonly Adapter[], name: string): string {
  const adapter = adapters.find((one) => name.startsWith(`${one.name}.`));
  if (!adapter?.fileKey) return name;
  return `${adapter.name}.${adapter.fileKey(name.slice(adapter.name.length + 1))}`;
}

/** The ports of adapters under their full names `<adapter>.<port>`, each fed for itself: for `shapes` of a trace. */
export const portShapes = (adapters: readonly Adapter[], dims: Dims): Record<string, Shape> =>
  Object.fromEntries(
    adapters.flatMap(({ name, ports = {} }) =>
      Object.entries(ports).map(([port, spec]) => [
        `${name}.${port}`,
        [spec.per === 'clip' ? dims.B : dims.B * dims.F, ...spec.shape(dims)],
      ]),
    ),
  );

/**
 * The ports of one adapter: what `given` has under their names, else inputs of the program, made when
 * they are read. `fallback` holds the net's inputs.
 */
export function portValues(
  { name, ports = {} }: Adapter,
  dims: Dims,
  shapes: Readonly<Record<string, Shape>>,
  given: Readonly<Record<string, Tensor>>,
  fallback: Readonly<Record<string, Tensor>>,
): PortValues {
  const made = new Map<string, Tensor>();
  const make = (port: string): Tensor => {
    const spec = ports[port];
    const full = `${name}.${port}`;
    if (spec.defaultTo && !shapes[full] && !given[full]) {
      const other = fallback[spec.defaultTo];
      if (other) return other;
    }
    const rows = spec.per === 'clip' ? dims.B : dims.B * dims.F;
    const shape = given[full]?.shape ?? shapes[full] ?? [rows, ...spec.shape(dims)];
    const allowed = spec.per === 'clip' ? [1, dims.B, dims.B * dims.F] : [dims.F, dims.B * dims.F];
    if (!allowed.includes(shape[0]))
      throw new AttuneError(
        'PORT_ROWS',
        `${full} is per ${spec.per}: it takes ${[...new Set(allowed)].join(' or ')} rows, not ${shape[0]}.`,
        { port: full, rows: shape[0] },
      );
    return (
      given[full] ??
      input(full, shape, {
        rate: spec.rate ?? 'clip',
        ...(spec.dtype ? { dtype: spec.dtype } : {}),
      })
    );
  };
  const values = {};
  for (const port of Object.keys(ports))
    Object.defineProperty(values, port, {
      enumerable: true,
      get: () => {
        if (!made.has(port)) made.set(port, make(port));
        return made.get(port);
      },
    });
  return values;
}
