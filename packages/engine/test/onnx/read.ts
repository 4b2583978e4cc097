/** A reader of ONNX bytes, written apart from the writer: what the tests look at a model through. */

export interface OnnxNode {
  readonly type: string;
  readonly inputs: readonly string[];
  readonly outputs: readonly string[];
  /** Integers, floats, strings or integer lists, by name. */
  readonly attrs: Readonly<Record<string, unknown>>;
}

export interface OnnxTensor {
  readonly name: string;
  readonly type: number;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
  /** location, offset and length of external data; empty for data inside. */
  readonly external: Readonly<Record<string, string>>;
}

export interface OnnxValue {
  readonly name: string;
  readonly type: number;
  readonly shape: readonly number[];
  readonly about: string;
}

export interface OnnxModel {
  readonly ir: number;
  readonly opset: number;
  readonly nodes: readonly OnnxNode[];
  readonly initializers: readonly OnnxTensor[];
  readonly inputs: readonly OnnxValue[];
  readonly outputs: readonly OnnxValue[];
  readonly metadata: Readonly<Record<string, string>>;
}

/** One field of a message: a varint, four bytes, or bytes of a length. */
interface Field {
  readonly number: number;
  readonly int: bigint;
  readonly bytes: Uint8Array;
}

function* fields(bytes: Uint8Array): Generator<Field> {
  let place = 0;
  const varint = (): bigint => {
    let sum = 0n;
    for (let shift = 0n; ; shift += 7n) {
      const byte = bytes[place++];
      sum |= BigInt(byte & 127) << shift;
      if (byte < 128) return BigInt.asIntN(64, sum);
    }
  };
  while (place < bytes.length) {
    const tag = Number(varint());
    const [number, wire] = [tag >> 3, tag & 7];
    if (wire === 0) yield { number, int: varint(), bytes: new Uint8Array() };
    else if (wire === 2 || wire === 5) {
      const length = wire === 5 ? 4 : Number(varint());
      if (place + length > bytes.length) throw new Error(`field ${number} is cut short`);
      yield { number, int: 0n, bytes: bytes.slice(place, (place += length)) };
    } else throw new Error(`wire type ${wire}`);
  }
}

const all = (bytes: Uint8Array, number: number): Field[] =>
  [...fields(bytes)].filter((field) => field.number === number);
const text = (bytes: Uint8Array): string => new TextDecoder('utf-8', { fatal: true }).decode(bytes);
const texts = (bytes: Uint8Array, number: number): string[] =>
  all(bytes, number).map((field) => text(field.bytes));
const messages = (bytes: Uint8Array, number: number): Uint8Array[] =>
  all(bytes, number).map((field) => field.bytes);
const ints = (bytes: Uint8Array, number: number): number[] =>
  all(bytes, number).map((field) => Number(field.int));

function attribute(bytes: Uint8Array): unknown {
  switch (ints(bytes, 20)[0]) {
    case 1:
      return new DataView(messages(bytes, 2)[0].buffer).getFloat32(0, true);
    case 2:
      return ints(bytes, 3)[0];
    case 3:
      return texts(bytes, 4)[0];
    default:
      return ints(bytes, 8);
  }
}

const node = (bytes: Uint8Array): OnnxNode => ({
  type: texts(bytes, 4)[0],
  inputs: texts(bytes, 1),
  outputs: texts(bytes, 2),
  attrs: Object.fromEntries(messages(bytes, 5).map((a) => [texts(a, 1)[0], attribute(a)])),
});

const tensor = (bytes: Uint8Array): OnnxTensor => ({
  name: texts(bytes, 8)[0],
  type: ints(bytes, 2)[0],
  shape: ints(bytes, 1),
  bytes: messages(bytes, 9)[0] ?? new Uint8Array(),
  external: Object.fromEntries(messages(bytes, 13).map((e) => [texts(e, 1)[0], texts(e, 2)[0]])),
});

function value(bytes: Uint8Array): OnnxValue {
  const [type] = messages(messages(bytes, 2)[0], 1);
  const dims = messages(messages(type, 2)[0], 1);
  return {
    name: texts(bytes, 1)[0],
    type: ints(type, 1)[0],
    shape: dims.map((dim) => ints(dim, 1)[0]),
    about: texts(bytes, 3)[0] ?? '',
  };
}

export function readModel(bytes: Uint8Array): OnnxModel {
  const [graph] = messages(bytes, 7);
  return {
    ir: ints(bytes, 1)[0],
    opset: ints(messages(bytes, 8)[0], 2)[0],
    nodes: messages(graph, 1).map(node),
    initializers: messages(graph, 5).map(tensor),
    inputs: messages(graph, 11).map(value),
    outputs: messages(graph, 12).map(value),
    metadata: Object.fromEntries(messages(bytes, 14).map((e) => [texts(e, 1)[0], texts(e, 2)[0]])),
  };
}
