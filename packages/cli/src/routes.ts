/** Routes as people say them on a command line, and as they are shown. */

import {
  entryName,
  type Model,
  type RouteEntry,
  routesOf,
  routeText,
  type StackFile,
} from '@attune/core';
import { AttuneError, nearest } from '@attune/engine';
import { InvalidArgumentError } from 'commander';

export type GivenRoutes = Readonly<Record<string, RouteEntry>>;

export const routeHelp =
  'what a port is fed, in place of what the stack says: a source by name, text:…, image:FILE or the number of a label; may be repeated';

/** Gathers `edit.image=image:depth.png`, `edit.encoder_hidden_states=text:make it icy`, `edit.task=2`, `video.first_frame=input_first`. */
export function collectRoute(text: string, before: GivenRoutes): GivenRoutes {
  const [, port, source] = /^([^=\s]+)=(.+)$/s.exec(text) ?? [];
  if (!port || !source)
    throw new InvalidArgumentError(
      'give a port and a source, as edit.image=input or face.image=image:ada.png',
    );
  return { ...before, [port]: entryOf(source) };
}

function entryOf(source: string): RouteEntry {
  if (/^\d+$/.test(source)) return Number(source);
  const [, kind, rest] = /^(text|image):(.*)$/s.exec(source) ?? [];
  if (kind === 'text') return { text: rest };
  return kind === 'image' ? { image: rest } : source;
}

/** A stack with more routes; `place` makes a picture's path one that holds for the stack. */
export function withRoutes(
  stack: StackFile,
  given: GivenRoutes,
  place: (image: string) => string,
): StackFile {
  if (Object.keys(given).length === 0) return stack;
  const placed = movedImages(given, place);
  return { ...stack, routes: { ...stack.routes, ...placed } };
}

/** Routes with the paths of their pictures changed. */
export const movedImages = (routes: GivenRoutes, place: (image: string) => string): GivenRoutes =>
  Object.fromEntries(
    Object.entries(routes).map(([port, entry]) => [
      port,
      typeof entry === 'object' && 'image' in entry ? { image: place(entry.image) } : entry,
    ]),
  );

/** What `-i` says: one instruction for all, and others for the adapters it names. */
export interface Instructions {
  readonly all?: string | undefined;
  readonly own: Readonly<Record<string, string>>;
}

/**
 * Sorts `make it golden` and `restyle=line art`, of which the second is for the adapter that the stack calls
 * so. Throws USAGE where two are for the same.
 */
export function instructionsOf(said: readonly string[], { adapters }: StackFile): Instructions {
  const names = adapters.map(entryName);
  const own: Record<string, string> = {};
  let all: string | undefined;
  for (const text of said) {
    const [, name = '', rest = ''] = /^([\w-]+)=(.*)$/s.exec(text) ?? [];
    const named = names.includes(name);
    if (named ? name in own : all !== undefined)
      throw new AttuneError(
        'USAGE',
        `-i is given twice for ${named ? name : 'all'} ("${text}"): name the adapter that it is for (${nearest(name, names, names.length).join(', ') || 'the stack has none'}), as -i NAME="…".`,
      );
    if (named) own[name] = rest;
    else all = text;
  }
  return { ...(all === undefined ? {} : { all }), own };
}

/**
 * A model whose adapters are told what is said to them alone. Adapters that it does not have are passed over.
 * Throws USAGE for one that reads no instruction, and where nothing is said to one that does.
 */
export function instructed(model: Model, { all, own }: Instructions): Model {
  const routes = routesOf(model);
  const reads = routes.filter(({ route }) => route === 'instruction' || route === 'prompt');
  const told = new Set<string>();
  const texts = reads.flatMap(({ port }) => {
    const [name] = port.split('.');
    if (name in own) {
      told.add(name);
      return [[port, { text: own[name] }] as const];
    }
    if (all === undefined)
      throw new AttuneError(
        'USAGE',
        `Nothing says what ${name} is to change: give -i "…" for all, or -i ${name}="…".`,
      );
    return [];
  });
  const deaf = model.adapters.find(({ name }) => name in own && !told.has(name));
  if (deaf)
    throw new AttuneError(
      'USAGE',
      `-i ${deaf.name}=…: ${deaf.name} reads no instruction of the run.`,
    );
  return texts.length === 0
    ? model
    : { ...model, routes: { ...model.routes, ...Object.fromEntries(texts) } };
}

/** What one input is fed, for people and for JSON. */
export interface RouteRow {
  readonly port: string;
  /** As a stack file says it; null where the input of the net `as` stands in, or code has to feed it. */
  readonly source: RouteEntry | null;
  readonly as: string | null;
  /** Said by the stack, and not the port's own. */
  readonly given: boolean;
}

export const routeRows = (model: Model, given: GivenRoutes): RouteRow[] =>
  routesOf(model).map(({ port, spec, route, given: said }) => ({
    port,
    source: given[port] ?? (typeof route === 'string' ? route : null),
    as: route === undefined ? (spec.defaultTo ?? null) : null,
    given: said,
  }));

export function routeLine({ port, source, as, given }: RouteRow): string {
  const fed =
    source === null
      ? as === null
        ? 'nothing: it has to be routed'
        : `as ${as}`
      : routeText(source);
  return `  ${port.padEnd(32)} ${fed}${given ? ' (of this stack)' : ''}`;
}
