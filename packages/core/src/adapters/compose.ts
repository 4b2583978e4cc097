/** Composition is an expression: compose(model, a, b) is a model again. */

import {
  AttuneError,
  input,
  nearest,
  type NDArray,
  Program,
  type ProgramOptions,
  Rng,
  sameShape,
  type Shape,
  type Tensor,
  toF32,
  type Traced,
  type WeightEntry,
  Weights,
} from '@attune/engine';

import type { Model } from '../models/model.ts';
import { type Dims, nominalDims } from '../models/net.ts';
import type { Tokenizer } from '../models/tokenizer.ts';
import { matcher, pattern } from '../nn/address.ts';
import { type BoundTap, makeCall, type ParamInfo, Scope, Trace } from '../nn/scope.ts';
import { type Adapter, portValues } from './adapter.ts';
import { gates, isOff } from './strength.ts';

/** Stacks adapters on a model, in order. `compose(compose(m, a), b)` equals `compose(m, a, b)`. */
export function compose(model: Model, ...added: readonly Adapter[]): Model {
  const taken = new Set([...Object.keys(model.nets), ...model.adapters.map(({ name }) => name)]);
  for (const adapter of added) {
    const { name } = adapter;
    if (!/^[A-Za-z_][\w-]*$/.test(name))
      throw new AttuneError(
        'ADAPTER_NAME',
        `"${name}" is no adapter name: use letters, digits, _ and - (a dot separates the parts of an address).`,
        { name },
      );
    if (taken.has(name))
      throw new AttuneError(
        'ADAPTER_NAME',
        name in model.nets
          ? `An adapter cannot be named ${name}: that is a net of the model.`
          : `Two adapters are named ${name}: give one of them another name.`,
        { name },
      );
    if (adapter.train && isOff(adapter))
      throw new AttuneError(
        'TRAIN_AT_ZERO',
        `The adapter ${name} is to train but its strength is 0 everywhere: no gradient would reach it.`,
        { name },
      );
    taken.add(name);
  }
  const weights = added.flatMap(({ name, weights: own }) =>
    own ? [own.prefixed(`${name}.`)] : [],
  );
  const on = added.filter((adapter) => !isOff(adapter));
  const tokenizer = withWords(model, on);
  return {
    ...model,
    ...(tokenizer ? { tokenizer } : {}),
    weights: Weights.overlay(model.weights, ...weights),
    adapters: [...model.adapters, ...on],
  };
}

/** The model's tokenizer with the words of the adapters. */
function withWords(model: Model, added: readonly Adapter[]): Tokenizer | undefined {
  const words = added.flatMap(({ name, words: own = {} }) =>
    Object.entries(own).map(([word, length]) => ({ name, word, length })),
  );
  return words.reduce<Tokenizer | undefined>((tokenizer, { name, word, length }) => {
    if (tokenizer) return tokenizer.withWord(word, length);
    throw new AttuneError(
      'NO_TOKENIZER',
      `The adapter ${name} adds the word "${word}", and the model has no tokenizer.`,
      { name, word },
    );
  }, model.tokenizer);
}

/** What to trace and with which sizes. */
export interface TraceRequest {
  readonly net: string;
  readonly dims: Dims;
  /** Shapes of inputs and ports that differ from their defaults; naming a port feeds it. */
  readonly shapes?: Readonly<Record<string, Shape>>;
  /** What to compute: outputs of the net by name, sites as `kind:address`. Default: the net's outputs. */
  readonly outputs?: readonly string[];
}

export interface ModelTrace {
  readonly traced: Traced;
  readonly trace: Trace;
}

/** Runs nets of a model inside one graph. Inputs not given become inputs of the program. */
export type NetRunner = (
  net: string,
  inputs?: Readonly<Record<string, Tensor>>,
  dims?: Dims,
) => Readonly<Record<string, Tensor>>;

/** Traces what `build` makes of a model's nets, under all its adapters, as one graph. */
export function traceModel(
  model: Model,
  { dims, shapes = {} }: Pick<TraceRequest, 'dims' | 'shapes'>,
  build: (run: NetRunner) => Readonly<Record<string, Tensor>>,
): ModelTrace {
  const taps: BoundTap[] = [];
  const trace = new Trace({ taps, live: liveness(model) });
  const gated = model.adapters.map((adapter) => ({ adapter, gate: gates(adapter) }));
  const run: NetRunner = (name, given = {}, sizes = dims) => {
    const net = model.nets[name];
    if (!net)
      throw new AttuneError(
        'NO_NET',
        `The model has no net "${name}"; it has ${Object.keys(model.nets).join(', ')}.`,
        { name },
      );
    const inputs: Record<string, Tensor> = {};
    for (const [key, { shape, dtype, rate }] of Object.entries(net.signature(sizes)))
      inputs[key] =
        given[key] ??
        input(key, shapes[key] ?? shape, {
          ...(dtype ? { dtype } : {}),
          ...(rate ? { rate } : {}),
        });
    const call = makeCall({ B: sizes.B, F: sizes.F }, inputs, (word) =>
      model.tokenizer?.idOf(word),
    );
    taps.length = 0;
    for (const { adapter, gate } of gated) {
      const ports = portValues(adapter, sizes, shapes, given, inputs);
      const own = new Scope(trace, adapter.name, call);
      for (const tap of attributed(adapter, 'attach', () => adapter.attach(own, ports)))
        taps.push({
          adapter: adapter.name,
          at: matcher(tap.at),
          delta: (value, site) =>
            attributed(adapter, `its delta at ${site.kind}:${site.address}`, () =>
              tap.delta(value, site),
            ),
          gate,
        });
    }
    return net.trace(new Scope(trace, '', call), call);
  };
  const outputs = build(run);
  return { traced: { outputs, marks: trace.marks }, trace };
}

/** What an adapter's own code throws, with its name and the place. */
function attributed<T>({ name }: Adapter, where: string, act: () => T): T {
  try {
    return act();
  } catch (error) {
    if (AttuneError.is(error)) throw error;
    const reason = error instanceof Error ? error.message : String(error);
    throw new AttuneError('ADAPTER_FAILED', `The adapter ${name} failed in ${where}: ${reason}`, {
      adapter: name,
      where,
    });
  }
}

/** Traces one net of a model. */
export function traceNet(
  model: Model,
  { net, dims, shapes, outputs: wanted }: TraceRequest,
): ModelTrace {
  const { traced, trace } = traceModel(model, { dims, ...(shapes ? { shapes } : {}) }, (run) =>
    run(net),
  );
  if (!wanted) return { traced, trace };
  const outputs = Object.fromEntries(
    wanted.map((name) => {
      const value = traced.outputs[name] ?? trace.sites.get(name);
      if (value) return [name, value];
      const known = [...Object.keys(traced.outputs), ...trace.sites.keys()];
      throw new AttuneError(
        'NO_SITE',
        `The net ${net} has no output or site ${name}; nearest: ${nearest(name, known).join(', ')}.`,
        { name },
      );
    }),
  );
  return { traced: { ...traced, outputs }, trace };
}

/** Whether a parameter is fed at every run: what trains, and adapters that say so. */
function liveness(model: Model): (name: string) => boolean {
  const trainable = trainability(model);
  const live = new Set(model.adapters.filter((a) => a.live).map((a) => a.name));
  return (name) => live.has(name.slice(0, name.indexOf('.'))) || trainable(name);
}

/** Whether a parameter trains. */
export function trainability(model: Model): (name: string) => boolean {
  const base = (model.train ?? []).map(pattern);
  const own = new Map(
    model.adapters.flatMap(({ name, train }) =>
      train ? [[name, train === true ? true : train.map(pattern)] as const] : [],
    ),
  );
  return (name) => {
    const dot = name.indexOf('.');
    const rule = own.get(name.slice(0, dot));
    if (rule !== undefined) return rule === true || rule.some((p) => p.test(name.slice(dot + 1)));
    return base.some((p) => p.test(name));
  };
}

/** Compiles one net of a model. */
export function compile(
  model: Model,
  request: TraceRequest,
  options: Omit<ProgramOptions, 'weights'>,
): Program {
  const { traced } = traceNet(model, request);
  return new Program(traced, { ...options, weights: model.weights });
}

/** Every parameter and site of a model, by tracing all its nets without running them. */
export interface Inventory {
  readonly params: ReadonlyMap<string, ParamInfo>;
  /** `kind:address` of every site, over all nets. */
  readonly sites: ReadonlySet<string>;
}

/**
 * Traces all nets of a model, adapters included, and lists what they ask for and visit.
 *
 * @throws NO_TARGET for an adapter that acts nowhere, with the nearest sites; ADAPTER_FAILED where its code
 * throws
 */
export function inventory(model: Model, dims: Dims): Inventory {
  const params = new Map<string, ParamInfo>();
  const sites = new Set<string>();
  const idle = new Map<string, Set<string>>();
  for (const net of Object.keys(model.nets)) {
    const { trace } = traceNet(model, { net, dims });
    for (const [name, info] of trace.params) params.set(name, info);
    for (const site of trace.sites.keys()) sites.add(site);
    for (const tap of trace.taps) {
      const waiting = idle.get(tap.adapter) ?? new Set();
      idle.set(tap.adapter, waiting);
      if (trace.acted.has(tap)) waiting.add('');
      else waiting.add(tap.at.text);
    }
  }
  for (const [adapter, waiting] of idle)
    if (!waiting.has(''))
      throw new AttuneError(
        'NO_TARGET',
        `The adapter ${adapter} acts nowhere: ${[...waiting].join(', ')} matches no site; nearest: ${nearest(
          [...waiting][0],
          [...sites].map((site) => site.replace(/^layer:/, '')),
        ).join(', ')}.`,
        { adapter },
      );
  return { params, sites };
}

/**
 * The layers of a model, its adapters' own included: by address, the names that other tools give them
 * (without the net's or the adapter's name).
 */
export function layerNames(model: Model): ReadonlyMap<string, readonly string[]> {
  const owners = new Map<string, Pick<Adapter, 'aliases'>>([
    ...Object.values(model.nets).map((net) => [net.name, net] as const),
    ...model.adapters.map((adapter) => [adapter.name, adapter] as const),
  ]);
  return new Map(
    [...inventory(model, nominalDims).sites].flatMap((site) => {
      if (!site.startsWith('layer:')) return [];
      const address = site.slice('layer:'.length);
      const dot = address.indexOf('.');
      const others = owners.get(address.slice(0, dot))?.aliases?.(address.slice(dot + 1));
      return [[address, others ?? []] as const];
    }),
  );
}

/**
 * Gives every parameter a value: those the weights lack are initialised, each from a stream of its
 * own name. An adapter that came with weights must bring all of its parameters and no others. What
 * `anew` matches is initialised, whatever the weights have.
 */
export function materialize(
  model: Model,
  {
    dims,
    seed = 0,
    anew = () => false,
  }: { dims: Dims; seed?: number; anew?: (name: string) => boolean },
): Model {
  const { params } = inventory(model, dims);
  const adapters = new Map(model.adapters.map((adapter) => [adapter.name, adapter]));
  const rng = Rng.of(seed);
  const fresh: Record<string, NDArray> = {};
  for (const { name, shape, init } of params.values()) {
    const kept = !anew(name);
    if (kept && model.weights.has(name)) {
      checkShape(model.weights.entry(name), shape);
      continue;
    }
    const dot = name.indexOf('.');
    const adapter = adapters.get(name.slice(0, dot));
    if (kept && adapter?.weights) throw missing(name);
    const own = name.slice(dot + 1);
    const start = adapter?.initial?.has(own) ? adapter.initial.entry(own) : undefined;
    fresh[name] =
      start && sameShape(start.shape, shape) ? toF32(start.load()) : init(rng.fork(name), shape);
  }
  refuseUnmatched(model, params);
  return { ...model, weights: Weights.overlay(model.weights, Weights.fromArrays(fresh)) };
}

/**
 * Checks that every adapter that came with weights brings all of its parameters, in their shapes, and no
 * others. Reads no values.
 *
 * @throws WEIGHT_SHAPE, MISSING_WEIGHT, UNMATCHED_WEIGHTS
 */
export function checkCoverage(model: Model): void {
  const withWeights = new Map(model.adapters.map((one) => [one.name, one.weights !== undefined]));
  if (![...withWeights.values()].some(Boolean)) return;
  const { params } = inventory(model, nominalDims);
  for (const { name, shape } of params.values()) {
    if (!withWeights.get(name.slice(0, name.indexOf('.')))) continue;
    if (!model.weights.has(name)) throw missing(name);
    checkShape(model.weights.entry(name), shape);
  }
  refuseUnmatched(model, params);
}

/** Throws WEIGHT_SHAPE. */
export function checkShape({ name, shape }: WeightEntry, wanted: Shape): void {
  if (!sameShape(shape, wanted))
    throw new AttuneError(
      'WEIGHT_SHAPE',
      `The weight ${name} is [${shape}]; the model wants [${wanted}].`,
      { name },
    );
}

const missing = (name: string): AttuneError =>
  new AttuneError('MISSING_WEIGHT', `The weights of an adapter lack ${name}.`, { name });

function refuseUnmatched({ adapters }: Model, params: ReadonlyMap<string, ParamInfo>): void {
  const unmatched = adapters.flatMap(({ name, weights }) =>
    [...(weights?.names() ?? [])]
      .filter((own) => !params.has(`${name}.${own}`))
      .map((own) => `${name}.${own}`),
  );
  if (unmatched.length)
    throw new AttuneError(
      'UNMATCHED_WEIGHTS',
      `${unmatched.length} weights are asked for by no layer, first ${unmatched[0]}; nearest: ${nearest(unmatched[0], params.keys(), 1).join()}.`,
      { unmatched },
    );
}
