/** The inputs of a probe, each checked against what the net and its adapters ask for. */

import type { Dims, Model, Port } from '@attune/core';
import { AttuneError, nearest, type NDArray, type Shape } from '@attune/engine';

import { asRows, asType, expectShape, type Tensors } from './tensors.ts';

/** What a call of a net is fed, and its sizes. */
export interface Conditions {
  readonly dims: Dims;
  /** Rows, in the types the net wants, the main input under the net's name for it. */
  readonly feeds: Tensors;
  readonly shapes: Readonly<Record<string, Shape>>;
  /** Frames of the main input where it came as a clip [B, C, F, H, W]. */
  readonly frames: number | undefined;
}

export interface Request {
  readonly net: string;
  /** The tensor that is the net's main input, as the file names it and as the net does. */
  readonly main: { readonly given: string; readonly own: string };
  /** Inputs that come from elsewhere: they must not be in the file. */
  readonly without?: readonly string[];
}

export function conditions(model: Model, tensors: Tensors, request: Request): Conditions {
  const { net, main, without = [] } = request;
  const { [main.given]: first, ...rest } = tensors;
  if (!first)
    throw new AttuneError(
      'MISSING_INPUT',
      `The input ${main.given} is missing (given: ${Object.keys(tensors).join(', ') || 'nothing'}).`,
      { name: main.given },
    );
  const { dims, frames } = sizes(first, main.given, rest);
  const signature = model.nets[net].signature(dims);
  const { dtype = 'f32', shape } = signature[main.own];
  const rows = asType(asRows(first), dtype, main.given);
  expectShape(main.given, rows, shape);
  const feeds: Record<string, NDArray> = { [main.own]: rows };
  const ports = portsOf(model, net);
  const wanted = Object.keys(signature).filter((key) => key !== main.own && !without.includes(key));
  for (const [name, array] of Object.entries(rest)) {
    const port = ports.get(name);
    const given = wanted.includes(name) ? signature[name] : undefined;
    if (!port && !given)
      throw new AttuneError(
        'UNKNOWN_INPUT',
        `Nothing takes the input ${name}; taken: ${[main.given, ...wanted, ...ports.keys()].join(', ')}; nearest: ${nearest(name, [...wanted, ...ports.keys()], 1).join() || 'none'}.`,
        { name },
      );
    const length = array.shape[1] ?? dims.L;
    const row = port ? port.shape({ ...dims, L: length }) : given!.shape.slice(1);
    const value = asType(array, (port ?? given!).dtype ?? 'f32', name);
    const one = value.shape.length === 0 && row.length === 0 ? { ...value, shape: [1] } : value;
    expectShape(name, one, [allowedRows(name, one, dims, port?.per ?? 'clip'), ...row]);
    feeds[name] = one;
  }
  for (const name of wanted)
    if (!feeds[name])
      throw new AttuneError('MISSING_INPUT', `The input ${name} is missing.`, { name });
  for (const [name, port] of ports)
    if (!port.defaultTo && !feeds[name])
      throw new AttuneError(
        'MISSING_INPUT',
        `The port ${name} was not fed: it takes [rows, ${port.shape(dims)}].`,
        { name },
      );
  const shapes = Object.fromEntries(Object.entries(feeds).map(([key, one]) => [key, one.shape]));
  return { dims, feeds, shapes, frames };
}

/** Sizes of a call, from its main input and its text. */
function sizes(
  { shape }: NDArray,
  name: string,
  rest: Tensors,
): { dims: Dims; frames: number | undefined } {
  const text = rest.encoder_hidden_states?.shape;
  const L = text?.[1] ?? shape[1];
  if (shape.some((size) => size === 0))
    throw new AttuneError('INPUT_SHAPE', `${name} is empty: [${shape}].`, { name });
  if (shape.length === 2) return { dims: { B: shape[0], F: 1, H: 1, W: 1, L }, frames: undefined };
  if (shape.length === 5) {
    const [B, , F, H, W] = shape;
    return { dims: { B, F, H, W, L }, frames: F };
  }
  if (shape.length !== 4)
    throw new AttuneError(
      'INPUT_SHAPE',
      `${name} is [${shape}]; it has to be [N, C, H, W] or, for a clip, [B, C, F, H, W].`,
      { name, got: shape },
    );
  const [N, , H, W] = shape;
  const clips = text && text[0] > 1 && N % text[0] === 0 ? text[0] : N;
  return { dims: { B: clips, F: N / clips, H, W, L }, frames: undefined };
}

function allowedRows(
  name: string,
  { shape }: NDArray,
  { B, F }: Dims,
  per: 'clip' | 'frame',
): number {
  const allowed = [...new Set(per === 'clip' ? [1, B, B * F] : [F, B * F])];
  if (allowed.includes(shape[0])) return shape[0];
  throw new AttuneError(
    'PORT_ROWS',
    `${name} is [${shape}]: it takes ${allowed.join(' or ')} rows (${B} clips of ${F} frames).`,
    { name, rows: shape[0] },
  );
}

/** The ports of the adapters that act on a net: all of them act on the UNet. */
function portsOf(model: Model, net: string): Map<string, Port> {
  return new Map<string, Port>(
    net === 'unet'
      ? model.adapters.flatMap(({ name, ports = {} }) =>
          Object.entries(ports).map(([port, spec]) => [`${name}.${port}`, spec] as const),
        )
      : [],
  );
}
