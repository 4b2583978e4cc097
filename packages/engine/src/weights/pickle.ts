/**
 * A pickle reader that can build plain containers and what its host allows, and executes nothing: any other
 * opcode or global is refused by name. Reads protocols 2 to 5, as torch.save writes them.
 */

import type { AttuneError } from '../errors.ts';

/** A name that a pickle asks for. */
export class Global {
  readonly path: string;
  constructor(path: string) {
    this.path = path;
  }
}

export class Tuple {
  readonly items: readonly Value[];
  constructor(items: readonly Value[]) {
    this.items = items;
  }
}

/** Anything a pickle may hold; `object` stands for what the host built. */
export type Value =
  | null
  | boolean
  | number
  | bigint
  | string
  | Uint8Array
  | Value[]
  | Dict
  | Tuple
  | Global
  | object;
export type Dict = Map<Value, Value>;

/** What names and persistent ids mean. Both throw for what is not allowed. */
export interface PickleHost {
  /** Whoever makes many values of one argument says how many by `spend`. */
  call(name: string, args: readonly Value[], spend: (count: number) => void): Value;
  /** An object of a class, without its state; throws for any class that is not allowed. */
  instance(name: string): Value;
  /** Gives a dict or an object of `instance` its attributes; copying many is said by `spend`. */
  state(object: Value, state: Value, spend: (count: number) => void): void;
  persistent(id: Value): Value;
  fail(what: string): AttuneError;
}

const MARK = Symbol('mark');
type Slot = Value | typeof MARK;

/** Names of opcodes that are refused, for messages. */
const REFUSED: Readonly<Record<number, string>> = {
  0x69: 'INST',
  0x6f: 'OBJ',
  0x92: 'NEWOBJ_EX',
  0x82: 'EXT1',
  0x83: 'EXT2',
  0x84: 'EXT4',
  0x50: 'PERSID',
  0x97: 'NEXT_BUFFER',
};

/**
 * Operations that a pickle may use, and values it may make. A tensor takes about 60; without a limit a byte
 * that makes a dict would take hundreds in memory, and one list could be copied by every byte that follows.
 */
const MOST = 2 ** 21;

/** The value of the first pickle in `bytes`. */
export function unpickle(bytes: Uint8Array, host: PickleHost): Value {
  return new Machine(bytes, host).run();
}

class Machine {
  readonly host: PickleHost;
  readonly #bytes: Buffer;
  readonly #stack: Slot[] = [];
  readonly #memo = new Map<number, Value>();
  #at = 0;
  #spent = 0;

  constructor(bytes: Uint8Array, host: PickleHost) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.host = host;
  }

  run(): Value {
    for (let op = this.byte(); op !== STOP; op = this.byte()) {
      this.spend(1);
      const act = OPS[op];
      if (!act) {
        const name = REFUSED[op] ?? `0x${op.toString(16).padStart(2, '0')}`;
        throw this.host.fail(`its pickle uses the opcode ${name}, which is not allowed`);
      }
      act(this);
    }
    const value = this.pop();
    if (this.#stack.length > 0) throw this.host.fail('its pickle leaves values behind');
    return value;
  }

  spend(count: number): void {
    this.#spent += count;
    if (this.#spent > MOST)
      throw this.host.fail(`its pickle takes more than ${MOST} steps, more than tensors need`);
  }

  take(count: number): Buffer {
    const end = this.#at + count;
    if (end > this.#bytes.length) throw this.host.fail('its pickle is cut short');
    const taken = this.#bytes.subarray(this.#at, end);
    this.#at = end;
    return taken;
  }

  byte(): number {
    return this.take(1)[0];
  }

  word(): number {
    return this.take(4).readUInt32LE();
  }

  /** An 8-byte length. */
  long(): number {
    return Number(this.take(8).readBigUInt64LE());
  }

  text(length: number): string {
    const bytes = this.take(length);
    try {
      return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    } catch {
      throw this.host.fail('its pickle holds text that is not UTF-8');
    }
  }

  line(): string {
    const end = this.#bytes.indexOf(0x0a, this.#at);
    const length = end < 0 ? Infinity : end - this.#at;
    if (length > 1024) throw this.host.fail('its pickle holds a name without an end');
    const words = this.text(length);
    this.#at++;
    return words;
  }

  /** Two's complement, little-endian. */
  integer(length: number): number | bigint {
    if (length > 64) throw this.host.fail(`its pickle holds an integer of ${length} bytes`);
    let value = 0n;
    for (const byte of this.take(length).toReversed()) value = (value << 8n) | BigInt(byte);
    const signed = BigInt.asIntN(8 * length, value);
    const short = Number(signed);
    return Number.isSafeInteger(short) ? short : signed;
  }

  push(value: Slot): void {
    this.#stack.push(value);
  }

  pop(): Value {
    const top = this.#stack.pop();
    if (top === undefined || top === MARK)
      throw this.host.fail('its pickle pops what is not there');
    return top;
  }

  top(): Value {
    const value = this.pop();
    this.push(value);
    return value;
  }

  sinceMark(): Value[] {
    const at = this.#stack.lastIndexOf(MARK);
    if (at < 0) throw this.host.fail('its pickle has no mark');
    return this.#stack.splice(at).slice(1) as Value[];
  }

  remember(key = this.#memo.size): void {
    this.#memo.set(key, this.top());
  }

  recall(key: number): void {
    const value = this.#memo.get(key);
    if (value === undefined) throw this.host.fail('its pickle recalls what it never kept');
    this.push(value);
  }
}

function setItems(m: Machine, items: readonly Value[]): void {
  const dict = m.top();
  if (!(dict instanceof Map) || items.length % 2)
    throw m.host.fail('its pickle sets items of something that is no dict');
  for (let i = 0; i < items.length; i += 2) dict.set(items[i], items[i + 1]);
}

function append(m: Machine, items: readonly Value[]): void {
  const list = m.top();
  if (!Array.isArray(list)) throw m.host.fail('its pickle appends to something that is no list');
  for (const item of items) list.push(item);
}

function tuple(m: Machine, length: number): void {
  const items = Array.from({ length }, () => m.pop());
  m.push(new Tuple(items.toReversed()));
}

function reduce(m: Machine): void {
  const args = m.pop();
  const callee = m.pop();
  if (!(callee instanceof Global) || !(args instanceof Tuple))
    throw m.host.fail('its pickle calls something that is no name');
  m.push(m.host.call(callee.path, args.items, (count) => m.spend(count)));
}

/** Of a class that the host allows, never by calling anything; arguments mean code and are refused. */
function newObject(m: Machine): void {
  const args = m.pop();
  const made = m.pop();
  if (!(made instanceof Global) || !(args instanceof Tuple) || args.items.length > 0)
    throw m.host.fail('its pickle uses the opcode NEWOBJ for more than an empty object of a class');
  m.push(m.host.instance(made.path));
}

/** Attributes that the host has no use for (torch keeps `_metadata` on state dicts) are dropped; only dicts have any. */
function build(m: Machine): void {
  const state = m.pop();
  const object = m.top();
  if (!(object instanceof Map))
    throw m.host.fail('its pickle sets the state of an object, which is not allowed');
  m.host.state(object, state, (count) => m.spend(count));
}

function protocol(m: Machine): void {
  const version = m.byte();
  if (version < 2 || version > 5)
    throw m.host.fail(`its pickle is of protocol ${version}; 2 to 5 are read`);
}

function stackGlobal(m: Machine): void {
  const name = m.pop();
  const module = m.pop();
  if (typeof name !== 'string' || typeof module !== 'string')
    throw m.host.fail('its pickle names something by what is no text');
  m.push(new Global(`${module}.${name}`));
}

function setItem(m: Machine): void {
  const value = m.pop();
  setItems(m, [m.pop(), value]);
}

const STOP = 0x2e;
const OPS: Readonly<Record<number, (m: Machine) => void>> = {
  0x80: protocol,
  0x95: (m) => m.take(8), // FRAME: a hint for readers of streams
  0x28: (m) => m.push(MARK),
  0x30: (m) => m.pop(),
  0x4e: (m) => m.push(null),
  0x88: (m) => m.push(true),
  0x89: (m) => m.push(false),
  0x4a: (m) => m.push(m.take(4).readInt32LE()),
  0x4b: (m) => m.push(m.byte()),
  0x4d: (m) => m.push(m.take(2).readUInt16LE()),
  0x8a: (m) => m.push(m.integer(m.byte())),
  0x8b: (m) => m.push(m.integer(m.word())),
  0x47: (m) => m.push(m.take(8).readDoubleBE()),
  0x58: (m) => m.push(m.text(m.word())),
  0x8c: (m) => m.push(m.text(m.byte())),
  0x8d: (m) => m.push(m.text(m.long())),
  0x42: (m) => m.push(m.take(m.word())),
  0x43: (m) => m.push(m.take(m.byte())),
  0x8e: (m) => m.push(m.take(m.long())),
  0x5d: (m) => m.push([]),
  0x61: (m) => append(m, [m.pop()]),
  0x65: (m) => append(m, m.sinceMark()),
  0x29: (m) => tuple(m, 0),
  0x85: (m) => tuple(m, 1),
  0x86: (m) => tuple(m, 2),
  0x87: (m) => tuple(m, 3),
  0x74: (m) => m.push(new Tuple(m.sinceMark())),
  0x7d: (m) => m.push(new Map()),
  0x73: setItem,
  0x75: (m) => setItems(m, m.sinceMark()),
  0x71: (m) => m.remember(m.byte()),
  0x72: (m) => m.remember(m.word()),
  0x94: (m) => m.remember(),
  0x68: (m) => m.recall(m.byte()),
  0x6a: (m) => m.recall(m.word()),
  0x63: (m) => m.push(new Global(`${m.line()}.${m.line()}`)),
  0x93: stackGlobal,
  0x52: reduce,
  0x81: newObject,
  0x62: build,
  0x51: (m) => m.push(m.host.persistent(m.pop())),
};
