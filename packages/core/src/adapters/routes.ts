/** Routes: what of a run each conditioning input of a stack is fed. */

import { AttuneError, type F32Array, nearest } from '@attune/engine';

import type { Model } from '../models/model.ts';
import { nominalDims } from '../models/net.ts';
import type { Adapter, Port, PortType } from './adapter.ts';

/**
 * What a run has to give, by name, and of which type it is. `generate` knows prompts alone: each of its texts
 * but `negative` is the prompt. In `edit`, `prompt` is the instruction and, for a still, `motion_caption` the
 * caption. `input` is what is edited, `input_first` its first frame, `first_frame` the first frame of the
 * result, made beforehand; of a clip in windows, those of each window.
 */
export const sources = {
  prompt: 'text',
  instruction: 'text',
  caption: 'text',
  motion_caption: 'text',
  negative: 'text',
  input: 'image',
  input_first: 'image',
  first_frame: 'latents',
  task: 'label',
} as const satisfies Readonly<Record<string, PortType>>;

/** What a run has to feed the inputs of a stack with, by name. */
export type SourceName = keyof typeof sources;

/** A picture at the size that is asked for, in pixels: [1, 3, height, width] in [0, 1]. */
export type Picture = (height: number, width: number) => Promise<F32Array>;

/** A source by its name (see `sources`), the number of a label, a text or a picture that are always the same. */
export type Route<P = Picture> =
  | string
  | number
  | { readonly text: string }
  | { readonly image: P };

/** By the full name of what is fed: an input of the net (`encoder_hidden_states`) or `<adapter>.<port>`. */
export type Routes<P = Picture> = Readonly<Record<string, Route<P>>>;

/** What is wrong with a route. */
export interface RouteProblem {
  readonly code: 'UNKNOWN_PORT' | 'UNKNOWN_SOURCE' | 'ROUTE_TYPE';
  readonly port: string;
  readonly text: string;
  readonly fix: string;
}

/** One input, and what it is fed. */
export interface Routed {
  readonly port: string;
  readonly spec: Port;
  /** Undefined: nothing; the input of the net that its port names stands in, or the run must feed it. */
  readonly route?: Route;
  /** Said by somebody; else it is the port's own. */
  readonly given: boolean;
}

/** The text that the backbone reads, which every run gives. */
const text: Port = {
  per: 'clip',
  takes: 'text',
  source: 'motion_caption',
  about: 'text states that the backbone reads',
  shape: ({ L }) => [L],
};

/** Everything that a route may lead to, by its full name. */
function targets(nets: Model['nets'], adapters: readonly Adapter[]): Map<string, Port> {
  const inputs = nets.unet?.signature(nominalDims) ?? {};
  return new Map([
    ...('encoder_hidden_states' in inputs ? [['encoder_hidden_states', text] as const] : []),
    ...adapters.flatMap(({ name, ports = {} }) =>
      Object.entries(ports).map(([port, spec]) => [`${name}.${port}`, spec] as const),
    ),
  ]);
}

const fits: Readonly<Record<PortType, readonly PortType[]>> = {
  text: ['text'],
  image: ['image', 'latents'],
  latents: ['latents', 'image'],
  label: ['label'],
};

const described: Readonly<Record<PortType, string>> = {
  text: 'a text',
  image: 'a picture',
  latents: 'a first frame or a picture',
  label: 'the number of a label',
};

/** The type of what a route gives; undefined for a source that there is not. */
export function typeOf(route: Route<unknown>): PortType | undefined {
  if (typeof route === 'number') return 'label';
  if (typeof route === 'object') return 'text' in route ? 'text' : 'image';
  return Object.hasOwn(sources, route) ? sources[route as SourceName] : undefined;
}

/** What is wrong with the routes of a stack, those of its ports' own included. */
export function routeProblems(
  nets: Model['nets'],
  adapters: readonly Adapter[],
  routes: Routes<unknown> = {},
): RouteProblem[] {
  const known = targets(nets, adapters);
  const own = [...known].flatMap(([port, { source }]) =>
    source === undefined || port in routes ? [] : [[port, source] as const],
  );
  return [...Object.entries(routes), ...own].flatMap(([port, route]) =>
    problem(port, route, known),
  );
}

function problem(
  port: string,
  route: Route<unknown>,
  known: ReadonlyMap<string, Port>,
): readonly RouteProblem[] {
  const spec = known.get(port);
  const open = [...known].flatMap(([name, { takes }]) => (takes ? [name] : []));
  if (!spec?.takes)
    return [
      {
        code: 'UNKNOWN_PORT',
        port,
        text: spec
          ? `${port} takes a tensor of its own kind, to which nothing can be routed`
          : `nothing is called ${port} that could be routed to`,
        fix: `take one of ${open.join(', ') || 'none, since no adapter has such a port'}${near(port, open)}`,
      },
    ];
  const type = typeOf(route);
  if (type === undefined) {
    const fitting = Object.keys(sources).filter((name) =>
      fits[spec.takes!].includes(sources[name as SourceName]),
    );
    return [
      {
        code: 'UNKNOWN_SOURCE',
        port,
        text: `${port} is to be fed ${routeText(route)}, which no run has`,
        fix: `take one of ${[...fitting, ...fixed[spec.takes]].join(', ')}${near(routeText(route), Object.keys(sources))}`,
      },
    ];
  }
  if (fits[spec.takes].includes(type)) return [];
  return [
    {
      code: 'ROUTE_TYPE',
      port,
      text: `${port} takes ${described[spec.takes]}, and ${routeText(route)} is ${described[type]}`,
      fix: `route ${described[spec.takes]} to it`,
    },
  ];
}

const fixed: Readonly<Record<PortType, readonly string[]>> = {
  text: ['{ text: … }'],
  image: ['{ image: file }'],
  latents: ['{ image: file }'],
  label: ['a number'],
};

function near(name: string, known: readonly string[]): string {
  const [found] = nearest(name, known, 1);
  return found === undefined ? '' : ` (nearest: ${found})`;
}

/** A route in words. */
export function routeText(route: Route<unknown>): string {
  if (typeof route !== 'object') return String(route);
  if ('text' in route) return `the text "${route.text}"`;
  return typeof route.image === 'string' ? `the picture ${route.image}` : 'a picture';
}

/** Every input that a run may feed, in order, with its route. Throws what `routeProblems` finds first. */
export function routesOf({ nets, adapters, routes = {} }: Model): Routed[] {
  const [wrong] = routeProblems(nets, adapters, routes);
  if (wrong)
    throw new AttuneError(wrong.code, `${wrong.text}; ${wrong.fix}.`, { port: wrong.port });
  return [...targets(nets, adapters)].map(([port, spec]) => {
    const route = routes[port] ?? spec.source;
    return { port, spec, given: port in routes, ...(route === undefined ? {} : { route }) };
  });
}

/** Routes without those to adapters that are not there: left out of stills, or of strength 0. */
export const routesTo = (adapters: readonly Adapter[], routes: Routes): Routes =>
  Object.fromEntries(
    Object.entries(routes).filter(
      ([port]) => !port.includes('.') || adapters.some(({ name }) => port.startsWith(`${name}.`)),
    ),
  );
