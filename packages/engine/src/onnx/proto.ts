/** The few protobuf messages of an ONNX model (onnx.proto3), written as bytes. */

import type { Float, OnnxAttrs } from '../graph/op.ts';

type Bytes = Uint8Array;

const utf8 = new TextEncoder();

/** An append-only buffer with protobuf's wire primitives. */
class Writer {
  #bytes = new Uint8Array(1024);
  #length = 0;

  done(): Bytes {
    return this.#bytes.subarray(0, this.#length);
  }

  #room(count: number): void {
    if (this.#length + count <= this.#bytes.length) return;
    const grown = new Uint8Array(Math.max(this.#bytes.length * 2, this.#length + count));
    grown.set(this.done());
    this.#bytes = grown;
  }

  #varint(value: bigint | number): void {
    this.#room(10);
    let rest = BigInt.asUintN(64, BigInt(value));
    while (rest > 127n) {
      this.#bytes[this.#length++] = Number(rest & 127n) | 128;
      rest >>= 7n;
    }
    this.#bytes[this.#length++] = Number(rest);
  }

  int(field: number, value: number | bigint): this {
    this.#varint(field << 3);
    this.#varint(value);
    return this;
  }

  float(field: number, value: number): this {
    this.#varint((field << 3) | 5);
    this.#room(4);
    new DataView(this.#bytes.buffer).setFloat32(this.#length, value, true);
    this.#length += 4;
    return this;
  }

  bytes(field: number, value: Bytes): this {
    this.#varint((field << 3) | 2);
    this.#varint(value.length);
    this.#room(value.length);
    this.#bytes.set(value, this.#length);
    this.#length += value.length;
    return this;
  }

  text(field: number, value: string): this {
    return this.bytes(field, utf8.encode(value));
  }
}

const message = (fill: (w: Writer) => void): Bytes => {
  const writer = new Writer();
  fill(writer);
  return writer.done();
};

const isFloat = (value: unknown): value is Float => typeof value === 'object' && 'float' in value!;

function attribute(name: string, value: OnnxAttrs[string]): Bytes {
  return message((w) => {
    w.text(1, name);
    if (typeof value === 'number') w.int(3, value).int(20, 2);
    else if (typeof value === 'string') w.text(4, value).int(20, 3);
    else if (isFloat(value)) w.float(2, value.float).int(20, 1);
    else {
      for (const item of value) w.int(8, item);
      w.int(20, 7);
    }
  });
}

export function nodeProto(
  type: string,
  inputs: readonly string[],
  outputs: readonly string[],
  attrs: OnnxAttrs,
): Bytes {
  return message((w) => {
    for (const name of inputs) w.text(1, name);
    for (const name of outputs) w.text(2, name);
    w.text(4, type);
    for (const [name, value] of Object.entries(attrs)) w.bytes(5, attribute(name, value));
  });
}

/** Where an external initialiser's bytes are. */
export interface External {
  readonly location: string;
  readonly offset: number;
  readonly length: number;
}

export function tensorProto(
  name: string,
  type: number,
  shape: readonly number[],
  payload: Bytes | External,
): Bytes {
  return message((w) => {
    for (const dim of shape) w.int(1, dim);
    w.int(2, type).text(8, name);
    if (payload instanceof Uint8Array) w.bytes(9, payload);
    else {
      const entry = (key: string, value: string) =>
        w.bytes(
          13,
          message((e) => e.text(1, key).text(2, value)),
        );
      entry('location', payload.location);
      entry('offset', String(payload.offset));
      entry('length', String(payload.length));
      w.int(14, 1);
    }
  });
}

export function valueInfo(name: string, type: number, shape: readonly number[], about = ''): Bytes {
  const dims = message((w) => {
    for (const dim of shape)
      w.bytes(
        1,
        message((d) => d.int(1, dim)),
      );
  });
  const tensorType = message((w) => w.int(1, type).bytes(2, dims));
  return message((w) => {
    w.text(1, name).bytes(
      2,
      message((t) => t.bytes(1, tensorType)),
    );
    if (about) w.text(3, about);
  });
}

export interface GraphParts {
  readonly nodes: readonly Bytes[];
  readonly initializers: readonly Bytes[];
  readonly inputs: readonly Bytes[];
  readonly outputs: readonly Bytes[];
  readonly metadata?: Readonly<Record<string, string>>;
}

/** A whole model: IR version 10, ai.onnx opset 21. */
export function modelProto(parts: GraphParts): Bytes {
  const graph = message((w) => {
    for (const node of parts.nodes) w.bytes(1, node);
    w.text(2, 'attune');
    for (const tensor of parts.initializers) w.bytes(5, tensor);
    for (const info of parts.inputs) w.bytes(11, info);
    for (const info of parts.outputs) w.bytes(12, info);
  });
  return message((w) => {
    w.int(1, 10)
      .text(2, 'attune')
      .bytes(7, graph)
      .bytes(
        8,
        message((o) => o.text(1, '').int(2, 21)),
      );
    for (const [key, value] of Object.entries(parts.metadata ?? {}))
      w.bytes(
        14,
        message((e) => e.text(1, key).text(2, value)),
      );
  });
}
