/** A graph as the bytes of an ONNX model. Deterministic: equal graphs give equal bytes. */

import { parse, sep } from 'node:path';

import { AttuneError } from '../errors.ts';
import { isFrozen, isInput, isParam } from '../graph/leaf.ts';
import type { Emitter, OnnxAttrs, Value } from '../graph/op.ts';
import { sameShape } from '../graph/shape.ts';
import { ancestors, type Tensor } from '../graph/tensor.ts';
import { onnxType } from '../ops/structural.ts';
import { bytesOf, type NDArray } from '../runtime/array.ts';
import type { WeightEntry } from '../weights/store.ts';
import { rows } from '../weights/view.ts';
import { modelProto, nodeProto, tensorProto, valueInfo } from './proto.ts';

/** A piece of a graph, and how it is to be written. */
export interface EmitRequest {
  /** The values to compute. */
  readonly outputs: readonly Tensor[];
  /** Tensors that are fed rather than computed, with their input names. */
  readonly boundary: ReadonlyMap<Tensor, string>;
  /** Tensors that were computed before, with their bytes. */
  readonly stored?: ReadonlyMap<Tensor, WeightEntry>;
  /** The bytes of a frozen parameter; a `source` without a root is addressed from the model's own folder. */
  weight(name: string): WeightEntry;
  /** Inputs that are written as constants instead of being fed, by name. */
  readonly fixed?: ReadonlyMap<string, NDArray>;
  /** The outputs' names in the model, one each; default: names of the engine's own. */
  readonly names?: readonly string[];
  /** What inputs and outputs mean, by name, for whoever opens the model. */
  readonly about?: ReadonlyMap<string, string>;
  /** The model's own metadata. */
  readonly metadata?: Readonly<Record<string, string>>;
}

/** A written model, and the names by which it is run. */
export interface Emitted {
  readonly model: Uint8Array;
  /** What the model must be fed, by name: leaves and boundary values. */
  readonly inputs: ReadonlyMap<string, Tensor>;
  /** The name of each requested output, in order. */
  readonly outputs: readonly string[];
}

/**
 * Writes the nodes that `outputs` need, as far as `boundary` and `stored`, as one ONNX model: opset 21,
 * static shapes, equal nodes once, weights by their place in their own files where they have one.
 *
 * @throws NAME_CLASH where one name stands for two values, WEIGHT_SHAPE for a weight of another shape
 */
export function emit(request: EmitRequest): Emitted {
  const graph = new GraphEmitter(request);
  const values = new Map<Tensor, Value>();
  for (const t of graph.tensors) values.set(t, graph.visit(t, values));
  const outputs = request.outputs.map((t, i) =>
    graph.output(t, values.get(t)!, request.names?.[i]),
  );
  return { model: graph.finish(), inputs: graph.inputs, outputs };
}

class GraphEmitter implements Emitter {
  readonly inputs = new Map<string, Tensor>();
  /** What is visited, inputs first. */
  readonly tensors: readonly Tensor[];
  readonly #request: EmitRequest;
  readonly #nodes: Uint8Array[] = [];
  readonly #initializers: Uint8Array[] = [];
  readonly #outputs = new Map<Value, Uint8Array>();
  readonly #written = new Map<string, Value[]>();
  readonly #constants = new Map<string, Value>();
  readonly #extras = new Map<Tensor, readonly Value[]>();
  readonly #wanted = new Set<string>();
  readonly #computed = new Set<Value>();
  readonly #weights = new Map<string, WeightEntry>();
  /** Frozen weights of which more is read than some of their rows. */
  readonly #whole: ReadonlySet<Tensor>;

  constructor(request: EmitRequest) {
    this.#request = request;
    const given = new Set([...request.boundary.keys(), ...(request.stored?.keys() ?? [])]);
    this.tensors = ancestors(request.outputs, given);
    for (const t of this.tensors)
      if (t.op.name === 'pick' && !given.has(t))
        this.#wanted.add(`${t.inputs[0].id}/${indexOf(t)}`);
    const readers = this.tensors.filter((t) => !given.has(t) && !rowsOf(t));
    this.#whole = new Set([...request.outputs, ...readers.flatMap(({ inputs }) => inputs)]);
  }

  visit(t: Tensor, values: ReadonlyMap<Tensor, Value>): Value {
    const fed = this.#request.boundary.get(t);
    if (fed !== undefined) return this.#input(fed, t);
    const known = this.#request.stored?.get(t);
    if (known) return this.#stored(known);
    if (isInput(t)) {
      const fixed = this.#request.fixed?.get(t.attrs.name);
      return fixed ? this.constant(fixed) : this.#input(t.attrs.name, t);
    }
    if (isFrozen(t)) return this.#whole.has(t) ? this.#weight(t) : '';
    const some = rowsOf(t);
    if (some) return this.#weight(t.inputs[0], some);
    if (isParam(t)) return this.#input(t.attrs.name, t);
    if (t.op.name === 'pick') return this.#extras.get(t.inputs[0])![indexOf(t) - 1];
    const inputs = t.inputs.map((x) => values.get(x)!);
    return t.op.onnx(this, inputs, t);
  }

  /** Names a result; anything that is not a node's own output, or has a name of its own, passes through an Identity. */
  output(t: Tensor, value: Value, given?: string): Value {
    const name =
      given === undefined
        ? this.#computed.has(value)
          ? value
          : this.node('Identity', [value])
        : this.#renamed(value, given);
    this.#outputs.set(name, this.#info(name, t));
    return name;
  }

  #renamed(value: Value, name: string): Value {
    if (this.inputs.has(name) || this.#outputs.has(name) || this.#constants.has(`weight ${name}`))
      throw new AttuneError('NAME_CLASH', `${name} names an output and another value.`, { name });
    this.#nodes.push(nodeProto('Identity', [value], [name], {}));
    return name;
  }

  #info(name: string, t: Tensor): Uint8Array {
    return valueInfo(name, onnxType[t.dtype], t.shape, this.#request.about?.get(name));
  }

  finish(): Uint8Array {
    return modelProto({
      nodes: this.#nodes,
      initializers: this.#initializers,
      inputs: [...this.inputs].map(([name, t]) => this.#info(name, t)),
      outputs: [...this.#outputs.values()],
      ...(this.#request.metadata ? { metadata: this.#request.metadata } : {}),
    });
  }

  #input(name: string, t: Tensor): Value {
    const seen = this.inputs.get(name);
    if (seen && seen !== t && !(sameShape(seen.shape, t.shape) && seen.dtype === t.dtype))
      throw new AttuneError(
        'NAME_CLASH',
        `Two inputs are named ${name}: [${seen.shape}] and [${t.shape}].`,
        { name },
      );
    if (this.#constants.has(`weight ${name}`)) throw bothFedAndStored(name);
    this.inputs.set(name, t);
    return name;
  }

  #weight(t: Tensor, some?: Rows): Value {
    const { name } = t.attrs as { name: string };
    const own = some ? `${name}[${some.start}:${some.end}]` : name;
    const known = this.#constants.get(`weight ${own}`);
    if (known) return known;
    if (this.inputs.has(name)) throw bothFedAndStored(name);
    const whole = this.#entry(name, t);
    const entry = some ? rows(whole, some.start, some.end) : whole;
    this.#initializer(own, entry);
    const stays = entry.dtype === 'f32';
    const value = stays ? own : this.node('Cast', [own], { to: onnxType.f32 });
    this.#constants.set(`weight ${own}`, value);
    return value;
  }

  #entry(name: string, { shape: want }: Tensor): WeightEntry {
    const entry = this.#weights.get(name) ?? this.#request.weight(name);
    this.#weights.set(name, entry);
    const { shape } = entry;
    if (sameShape(shape, want)) return entry;
    throw new AttuneError(
      'WEIGHT_SHAPE',
      `The weight ${name} is [${shape}]; the model wants [${want}].`,
      { name, shape, want },
    );
  }

  /** One initialiser for all values of one place, so that what reads them is written once, too. */
  #stored(entry: WeightEntry): Value {
    const { source, shape } = entry;
    const key = `stored ${source?.file} ${source?.offset} [${shape}]`;
    const known = source && this.#constants.get(key);
    const name = known ?? this.#initializer(`%s${this.#constants.size}`, entry);
    if (source) this.#constants.set(key, name);
    return name;
  }

  #initializer(name: string, entry: WeightEntry): Value {
    const { dtype, shape, source } = entry;
    const payload = source
      ? { location: relative(source.file), offset: source.offset, length: source.length }
      : bytesOf(entry.load());
    this.#initializers.push(tensorProto(name, onnxType[dtype], shape, payload));
    return name;
  }

  node(type: string, inputs: readonly Value[], attrs: OnnxAttrs = {}): Value {
    return this.nodes(type, inputs, attrs, 1)[0];
  }

  nodes(type: string, inputs: readonly Value[], attrs: OnnxAttrs, count: number): Value[] {
    const key = `${type}|${inputs.join()}|${JSON.stringify(attrs)}|${count}`;
    const known = this.#written.get(key);
    if (known) return known;
    const outputs = Array.from({ length: count }, (_, i) =>
      i === 0 ? `%v${this.#nodes.length}` : `%v${this.#nodes.length}.${i}`,
    );
    this.#nodes.push(nodeProto(type, inputs, outputs, attrs));
    this.#written.set(key, outputs);
    for (const value of outputs) this.#computed.add(value);
    return outputs;
  }

  constant(array: NDArray): Value {
    const bytes = bytesOf(array);
    const key = `${array.dtype}[${array.shape}]${Buffer.from(bytes).toString('latin1')}`;
    const known = this.#constants.get(key);
    if (known) return known;
    const name = `%c${this.#constants.size}`;
    this.#initializers.push(tensorProto(name, onnxType[array.dtype], array.shape, bytes));
    this.#constants.set(key, name);
    return name;
  }

  scalar(value: number): Value {
    return this.constant({ dtype: 'f32', shape: [], data: Float32Array.of(value) });
  }

  ints(values: readonly number[]): Value {
    const data = BigInt64Array.from(values, (value) => BigInt(value));
    return this.constant({ dtype: 'i64', shape: [values.length], data });
  }

  wants(node: Tensor, index: number): boolean {
    return this.#wanted.has(`${node.id}/${index}`);
  }

  extras(node: Tensor, values: readonly Value[]): void {
    this.#extras.set(node, values);
  }
}

/** ONNX would read the weight as the input's default. */
const bothFedAndStored = (name: string) =>
  new AttuneError('NAME_CLASH', `${name} names both an input and a frozen weight.`, { name });

interface Rows {
  readonly start: number;
  readonly end: number;
}

/** Rows that a slice takes of a frozen weight: a part of its bytes, which need no node. */
function rowsOf({ op, attrs, inputs }: Tensor): Rows | undefined {
  if (op.name !== 'slice' || !isFrozen(inputs[0])) return undefined;
  const { axis, start, end, step } = attrs as Rows & { axis: number; step: number };
  return axis === 0 && step === 1 ? { start, end } : undefined;
}

const indexOf = (t: Tensor): number => (t.attrs as { index: number }).index;

/** External data is addressed from the root of the file system (or drive), or from the model's folder. */
function relative(file: string): string {
  return file.slice(parse(file).root.length).split(sep).join('/');
}
