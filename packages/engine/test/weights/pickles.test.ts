/** Archives that lie and pickles that mean harm: each ends in one clear error, soon and in little memory. */

import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, describe, expect, test } from 'vitest';

import { AttuneError } from '../../src/errors.ts';
import { Rng } from '../../src/runtime/rng.ts';
import { Weights } from '../../src/weights/store.ts';
import * as made from './archive.ts';

const { bytes, checkpoint, get, int, named, put, text, tuple } = made;
const { APPEND, APPENDS, BUILD, DICT, EMPTY, LIST, MARK, NEWOBJ, NONE } = made;
const { PERSISTENT, POP, REDUCE, SETITEM, SETITEMS, TRUE } = made;

const folder = mkdtempSync(join(tmpdir(), 'pickles-'));
afterAll(() => rmSync(folder, { recursive: true }));

function open(content: Uint8Array): Weights {
  const file = join(folder, 'hostile.ckpt');
  writeFileSync(file, content);
  return Weights.fromFile(file);
}

const four = made.tensor([4], [1], 4);
const item = (key: string, value: Buffer): Buffer => bytes(text(key), value, SETITEM);
const times = (count: number, ...pieces: Buffer[]): Buffer =>
  Buffer.concat(Array.from({ length: count }, () => Buffer.concat(pieces)));

test('what the cases are made of is read', () => {
  const weights = open(checkpoint(bytes(DICT, item('a.weight', four))));
  expect([...weights.names()]).toEqual(['a.weight']);
  expect(weights.entry('a.weight').load().shape).toEqual([4]);
});

const parameters = named('torch.nn.modules.container', 'ParameterDict');
const numbered = (count: number): Buffer =>
  Buffer.concat(Array.from({ length: count }, (_, k) => bytes(int(k), NONE)));

/** Every level holds the one before it twice. */
const laughs = bytes(
  bytes(LIST, four, APPEND, put(0), POP),
  ...Array.from({ length: 40 }, (_, k) => bytes(tuple(get(k), get(k)), put(k + 1), POP)),
  get(40),
);
const axes = Array.from({ length: 65 }, () => 1);
const pickles: Readonly<Record<string, readonly [() => Buffer, RegExp]>> = {
  'a command': [
    () => bytes(named('os', 'system'), tuple(text('true')), REDUCE),
    /os\.system, which is not allowed/,
  ],
  'a command by STACK_GLOBAL': [
    () => bytes(text('posix'), text('system'), 0x93, tuple(text('true')), REDUCE),
    /posix\.system/,
  ],
  'eval as a tensor': [
    () => bytes(DICT, item('a', bytes(named('builtins', 'eval'), tuple(text('1')), REDUCE))),
    /builtins\.eval/,
  ],
  'a name that every object has': [
    () => bytes(named('torch', 'constructor'), EMPTY, REDUCE),
    /torch\.constructor/,
  ],
  'a call of what is no name': [() => bytes(text('x'), EMPTY, REDUCE), /no name/],
  'the state of a name': [() => bytes(named('os', 'path'), DICT, BUILD), /sets the state/],
  INST: [() => bytes(MARK, Buffer.from('ios\nsystem\n')), /opcode INST/],
  OBJ: [() => bytes(MARK, named('os', 'system'), 0x6f), /opcode OBJ/],
  NEWOBJ: [
    () => bytes(named('os', 'system'), EMPTY, NEWOBJ),
    /NEWOBJ for an object of os\.system, which is not allowed/,
  ],
  'NEWOBJ of a module that would run': [
    () => bytes(named('torch.nn.modules.container', 'Sequential'), EMPTY, NEWOBJ),
    /container\.Sequential, which is not allowed/,
  ],
  'NEWOBJ with an argument': [
    () => bytes(parameters, tuple(text('x')), NEWOBJ),
    /more than an empty object/,
  ],
  'NEWOBJ of what is no class': [() => bytes(text('x'), EMPTY, NEWOBJ), /more than an empty/],
  'a call of the class that NEWOBJ may make': [
    () => bytes(parameters, EMPTY, REDUCE),
    /ParameterDict, which is not allowed/,
  ],
  'parameters that are no tensors': [
    () => bytes(parameters, EMPTY, NEWOBJ, DICT, item('_parameters', text('x')), BUILD),
    /holds no tensors/,
  ],
  'parameters copied again and again': [
    () =>
      bytes(
        bytes(DICT, text('_parameters'), DICT, MARK, numbered(20_000), SETITEMS, SETITEM),
        bytes(put(0), POP),
        times(200, parameters, bytes(EMPTY, NEWOBJ, get(0), BUILD, POP)),
      ),
    /steps/,
  ],
  NEWOBJ_EX: [() => bytes(named('os', 'system'), EMPTY, DICT, 0x92), /opcode NEWOBJ_EX/],
  EXT1: [() => bytes(0x82, 1), /opcode EXT1/],
  'a persistent id in text': [() => Buffer.from('Pstorage\n'), /opcode PERSID/],
  'a persistent id of another kind': [() => bytes(text('storage'), PERSISTENT), /no storage/],
  'a storage without a type': [
    () => bytes(tuple(text('storage'), text('f'), text('0'), text('cpu'), int(4)), PERSISTENT),
    /no storage/,
  ],
  'a storage outside the archive': [
    () =>
      bytes(
        tuple(text('storage'), named('torch', 'FloatStorage'), text('../0'), text(''), int(4)),
        PERSISTENT,
      ),
    /storage \.\.\/0 is missing/,
  ],
  'a storage of another length': [() => made.storage(5), /claims 5 elements/],
  'a storage of -1 elements': [() => made.storage(0xffffffff), /claims no number of/],
  'what was never kept': [() => get(7), /never kept/],
  'nothing to pop': [() => bytes(POP), /pops what is not there/],
  'no mark': [() => bytes(NONE, 0x74), /no mark/],
  'a text longer than the file': [() => bytes(0x58, made.u32(0xfffffff0)), /cut short/],
  'an integer of 2³¹ bytes': [() => bytes(0x8b, made.u32(2 ** 31)), /integer of 2147483648 bytes/],
  'items of a list': [() => bytes(LIST, NONE, NONE, SETITEM), /no dict/],
  'values left behind': [() => bytes(NONE, NONE), /leaves values behind/],
  'containers nested 100,000 times': [
    () => bytes(times(100_000, bytes(LIST)), four, APPEND, times(99_999, bytes(APPEND))),
    /nested without end/,
  ],
  'a list in itself': [() => bytes(LIST, put(0), get(0), APPEND), /nested without end/],
  'a billion laughs': [() => laughs, /nested without end/],
  'three million dicts': [() => bytes(MARK, Buffer.alloc(3_000_000, DICT), 0x74), /steps/],
  'a list made into dicts again and again': [
    () =>
      bytes(
        bytes(LIST, put(0), MARK, times(20_000, tuple(TRUE, NONE)), APPENDS),
        times(200, named('collections', 'OrderedDict'), tuple(get(0)), bytes(REDUCE, POP)),
      ),
    /steps/,
  ],
  'keys that are no names, in many places': [
    () =>
      bytes(
        bytes(DICT, put(0), MARK, times(100_000, bytes(EMPTY, NONE)), SETITEMS, POP),
        bytes(LIST, MARK, times(1000, get(0)), APPENDS),
      ),
    /nested without end/,
  ],
  'names that grow without end': [
    () => {
      const long = text('x'.repeat(3000));
      return bytes(DICT, long, bytes(DICT, long, four, SETITEM), SETITEM);
    },
    /longer than 4096/,
  ],
  'one tensor under very many names': [
    () =>
      bytes(
        bytes(made.tensor([4000], [1], 4000), put(0), POP),
        bytes(LIST, MARK, times(2000, get(0)), APPENDS),
      ),
    /again and again/,
  ],
  'a tensor beyond its storage': [() => made.tensor([5], [1], 4), /reaches beyond/],
  'a tensor with a step back': [() => made.tensor([4], [0xffffffff], 4), /cannot be/],
  'a tensor that repeats': [() => made.tensor([5], [0], 4), /repeats its 4/],
  'a tensor of 65 axes': [() => made.tensor(axes, axes, 4), /cannot be/],
};

/** The error of a file; fails where there is none, or another kind. */
function refusal(content: Uint8Array): string {
  try {
    open(content);
  } catch (error) {
    if (!AttuneError.is(error)) throw error;
    expect(error.code).toBe('BAD_FILE');
    expect(error.message.length).toBeLessThan(1000);
    return error.message;
  }
  return 'opened';
}

describe('pickles', () => {
  test.each(Object.keys(pickles))('%s', (name) => {
    const [pickle, message] = pickles[name];
    const count = name.includes('very many') ? 4000 : 4;
    expect(refusal(checkpoint(pickle(), count))).toMatch(message);
  });
});

const plain = { name: 'archive/data.pkl', bytes: bytes(0x80, 2, DICT, item('a', four), 0x2e) };
const data = { name: 'archive/data/0', bytes: Buffer.alloc(16) };
const whole = made.archive([plain, data]);

const archives: Readonly<Record<string, readonly [() => Uint8Array, RegExp]>> = {
  'a directory that is cut short': [() => whole.subarray(0, whole.length - 30), /cut short/],
  'more entries than there are': [() => made.archive([plain, data], { count: 9 }), /damaged/],
  'fewer entries than there are': [() => made.archive([plain, data], { count: 1 }), /no entry/],
  'a directory behind the end': [
    () => made.archive([plain, data], { start: 1_000_000 }),
    /outside it/,
  ],
  'a long directory of 2⁶³ bytes': [
    () => made.archive([plain, data], { long: [2n, 1n << 63n, 0n] }),
    /no file has/,
  ],
  'a long directory of 1 TB': [
    () => made.archive([plain, data], { long: [2n, 1n << 40n, 0n] }),
    /claims 1099511627776 bytes/,
  ],
  'a long directory elsewhere': [
    () => made.archive([plain, data], { long: [2n, 100n, 0n], record: 1n << 40n }),
    /outside it/,
  ],
  'a compressed entry': [
    () => made.archive([{ ...plain, methods: [8, 8] }, data]),
    /is compressed; tensors/,
  ],
  'an entry that is compressed in one place': [
    () => made.archive([{ ...plain, methods: [0, 8] }, data]),
    /compressed by its own header/,
  ],
  'an encrypted entry': [() => made.archive([{ ...plain, flags: 1 }, data]), /encrypted/],
  'two entries of one name': [() => made.archive([plain, data, data]), /two entries named/],
  'entries at one place': [
    () => made.archive([plain, data, { ...data, name: 'archive/data/1', claims: { place: 0 } }]),
    /overlap/,
  ],
  'an entry longer than the archive': [
    () => made.archive([plain, { ...data, claims: { length: 2 ** 31 } }]),
    /reaches into the directory/,
  ],
  'a name outside': [() => made.archive([{ ...plain, name: '../a/data.pkl' }]), /none that torch/],
  'two pickles': [
    () => made.archive([plain, { ...plain, name: 'b/data.pkl' }]),
    /needs one data\.pkl/,
  ],
  TorchScript: [
    () => made.archive([plain, data, { name: 'archive/constants.pkl', bytes: Buffer.alloc(1) }]),
    /TorchScript archive, a program/,
  ],
  'big-endian numbers': [
    () => made.archive([plain, data, { name: 'archive/byteorder', bytes: Buffer.from('big') }]),
    /big-endian/,
  ],
  'torch.save before 1.6': [
    () => Buffer.from('80028a0a6cfc9c46f9206aa850192e', 'hex'),
    /torch\.save before 1\.6/,
  ],
  'a bare pickle': [
    () => bytes(0x80, 4, named('os', 'system'), tuple(text('true')), REDUCE, 0x2e),
    /bare Python pickle/,
  ],
};

describe('archives', () => {
  test.each(Object.keys(archives))('%s', (name) => {
    const [content, message] = archives[name];
    expect(refusal(content())).toMatch(message);
  });
});

test('600 pickles of random pieces: each opens or is refused', () => {
  const pieces = [
    ...[four, LIST, DICT, EMPTY, MARK, NONE, POP, APPEND, APPENDS, SETITEM, SETITEMS].map((one) =>
      bytes(one),
    ),
    ...[REDUCE, BUILD, PERSISTENT, 0x74, 0x85, 0x86, 0x87, 0x32, 0x94, 0x95].map((one) =>
      bytes(one),
    ),
    put(0),
    put(1),
    get(0),
    get(1),
    int(3),
    int(0xffffffff),
    text('a'),
    text('state_dict'),
    made.storage(4),
    named('collections', 'OrderedDict'),
    named('torch', 'Size'),
    named('torch._utils', '_rebuild_parameter'),
    bytes(NEWOBJ),
    parameters,
    text('_parameters'),
  ];
  const rng = Rng.of(11);
  const seen = { opened: 0, refused: 0 };
  for (let i = 0; i < 600; i++) {
    const own = rng.fork(i);
    const body = Array.from({ length: own.int(12) }, () => pieces[own.int(pieces.length)]);
    const pickle = own.uniform() < 0.5 ? bytes(...body) : bytes(DICT, text('a'), ...body, SETITEM);
    seen[refusal(checkpoint(pickle)) === 'opened' ? 'opened' : 'refused']++;
  }
  expect(seen.opened).toBeGreaterThan(0);
  expect(seen.refused).toBeGreaterThan(300);
});

test('a header is no pickle, whatever its length', () => {
  for (const length of [128, 384, 640, 1152]) {
    const json = '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'.padEnd(length);
    const head = Buffer.alloc(8);
    head.writeUInt32LE(length);
    expect(open(Buffer.concat([head, Buffer.from(json), Buffer.alloc(1)])).size).toBe(1);
  }
});
