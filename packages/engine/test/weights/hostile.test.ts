import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, describe, expect, test } from 'vitest';

import { AttuneError } from '../../src/errors.ts';
import { f32, zeros } from '../../src/runtime/array.ts';
import { Rng } from '../../src/runtime/rng.ts';
import { parseHeader } from '../../src/weights/header.ts';
import { encodeSafetensors, openSafetensors } from '../../src/weights/safetensors.ts';

const folder = mkdtempSync(join(tmpdir(), 'hostile-'));
afterAll(() => rmSync(folder, { recursive: true }));
let count = 0;
const fresh = (): string => join(folder, `${count++}.safetensors`);

/** A file with a hand-made header. */
function craft(header: string | Uint8Array, payload: number, claimed?: number): string {
  const text = Buffer.from(header);
  const head = Buffer.alloc(8);
  head.writeBigUInt64LE(BigInt(claimed ?? text.length));
  const file = fresh();
  writeFileSync(file, Buffer.concat([head, text, Buffer.alloc(payload)]));
  return file;
}

const tensor = (dtype: string, shape: unknown, offsets: unknown): string =>
  JSON.stringify({ a: { dtype, shape, data_offsets: offsets } });

const good = tensor('F32', [2], [0, 8]);

const lies: Readonly<Record<string, readonly [() => string, RegExp]>> = {
  'header longer than the file': [() => craft(good, 8, 4000), /claims 4000 bytes/],
  'header over the cap': [() => craft(good, 8, 2 ** 40), /no safetensors file, or a hostile one/],
  'too short': [
    () => {
      const file = fresh();
      writeFileSync(file, 'abc');
      return file;
    },
    /too few/,
  ],
  empty: [
    () => {
      const file = fresh();
      writeFileSync(file, '');
      return file;
    },
    /has 0 bytes, too few/,
  ],
  'header of length 0': [() => craft('', 0), /does not begin/],
  'leading space': [() => craft(` ${good}`, 8), /does not begin/],
  'not UTF-8': [
    () =>
      craft(Buffer.concat([Buffer.from('{"'), Buffer.from([0xff, 0xfe]), Buffer.from('":1}')]), 0),
    /UTF-8/,
  ],
  'not JSON': [() => craft('{"a":', 0), /no JSON/],
  'a name twice': [() => craft(`${good.slice(0, -1)},${good.slice(1)}`, 8), /occurs twice/],
  'an escaped name twice': [
    () => craft(`${good.slice(0, -1)},${good.slice(1).replace('"a"', String.raw`"\u0061"`)}`, 8),
    /occurs twice/,
  ],
  'a key of an entry twice': [
    () => craft('{"a":{"dtype":"U8","shape":[9],"shape":[1],"data_offsets":[0,1]}}', 1),
    /occurs twice/,
  ],
  'a key of the metadata twice': [
    () => craft('{"__metadata__":{"x":"1","x":"2"}}', 0),
    /occurs twice/,
  ],
  'header a list': [() => craft('[]', 0), /does not begin/],
  'entry a list': [() => craft('{"a":[]}', 0), /no object/],
  'entry without a shape': [() => craft('{"a":{"dtype":"U8"}}', 0), /the shape of a/],
  'entry no object': [() => craft('{"a":3}', 0), /no object/],
  'unknown dtype': [() => craft(tensor('F33', [2], [0, 8]), 8), /no known type/],
  'unsupported dtype': [() => craft(tensor('F8_E8M0', [8], [0, 8]), 8), /not supported/],
  'an 8-bit float of two bytes': [() => craft(tensor('F8_E5M2', [4], [0, 8]), 8), /needs 4 bytes/],
  'a dtype that every object has': [
    () => craft(tensor('constructor', [1], [0, 1]), 1),
    /no known type/,
  ],
  'negative dim': [() => craft(tensor('F32', [-2], [0, 8]), 8), /the shape of a/],
  'dim of minus zero': [
    () => craft('{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}', 0),
    /the shape of a/,
  ],
  'dim no number': [() => craft(tensor('U8', ['1'], [0, 1]), 1), /the shape of a/],
  'dim beyond 2^53': [
    () => craft('{"a":{"dtype":"U8","shape":[9007199254740993],"data_offsets":[0,1]}}', 1),
    /the shape of a/,
  ],
  'shape nested deeply': [
    () => craft(`{"a":{"dtype":"U8","shape":${'['.repeat(1e5)}${']'.repeat(1e5)}}}`, 0),
    /nests its values deeper than 64 times/,
  ],
  'fractional dim': [() => craft(tensor('F32', [0.5], [0, 2]), 2), /the shape of a/],
  'shape that overflows': [() => craft(tensor('F32', [2 ** 50, 2 ** 50], [0, 8]), 8), /too large/],
  'shape that overflows on the way to 0': [
    () => craft(tensor('F32', [2 ** 50, 2 ** 50, 0], [0, 0]), 0),
    /too large/,
  ],
  'length unlike shape': [() => craft(tensor('F32', [3], [0, 8]), 8), /needs 12 bytes/],
  'offsets reversed': [() => craft(tensor('F32', [2], [8, 0]), 8), /data_offsets/],
  'offsets not two': [() => craft(tensor('F32', [2], [0]), 8), /data_offsets/],
  'negative offset': [() => craft(tensor('U8', [2], [-1, 1]), 1), /data_offsets/],
  'a hole at the start': [() => craft(tensor('U8', [1], [1, 2]), 2), /1 bytes before the tensor a/],
  truncated: [() => craft(tensor('F32', [4], [0, 16]), 8), /cut short/],
  'bytes at the end': [() => craft(good, 12), /after the last tensor/],
  'a hole': [
    () =>
      craft(
        '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}}',
        3,
      ),
    /belong to no tensor/,
  ],
  'an overlap': [
    () =>
      craft(
        '{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}',
        3,
      ),
    /overlaps/,
  ],
  'an empty tensor inside another': [
    () =>
      craft(
        '{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[0],"data_offsets":[1,1]}}',
        2,
      ),
    /overlaps/,
  ],
  'metadata no object': [() => craft('{"__metadata__":"x"}', 0), /no object/],
  'metadata no text': [() => craft(`{"__metadata__":{"x":1},${good.slice(1)}`, 8), /no text/],
  'unknown key': [
    () => craft('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}}', 1),
    /unknown key x/,
  ],
  'a folder': [() => folder, /no file/],
  'a device': [() => '/dev/null', /no file/],
  'a path with a zero byte': [() => 'a\0', /cannot be opened/],
  missing: [() => join(folder, 'nowhere'), /cannot be opened/],
};

describe('a header that lies is refused', () => {
  test.each(Object.keys(lies))('%s', (name) => {
    const [make, message] = lies[name];
    expect(() => openSafetensors(make())).toThrow(message);
    expect(() => openSafetensors(make())).toThrow(AttuneError);
  });
});

describe('mutations of a valid file give a file or an error of ours', () => {
  const bytes = encodeSafetensors(
    { a: f32([1, 2], [2]), 'b.c': zeros([1, 3], 'i64'), d: zeros([5], 'bool') },
    { note: 'x' },
  );
  const length = Number(Buffer.from(bytes).readBigUInt64LE());
  const text = Buffer.from(bytes.subarray(8, 8 + length))
    .toString()
    .trim();
  const payload = bytes.length - 8 - length;

  test('bytes changed anywhere', () => {
    const rng = Rng.of(7);
    for (let i = 0; i < 300; i++) {
      const copy = Uint8Array.from(bytes);
      for (let k = rng.int(4); k >= 0; k--) copy[rng.int(copy.length)] = rng.int(256);
      const file = fresh();
      writeFileSync(file, copy);
      expect(outcome(() => readAll(file))).not.toBe('another error');
      rmSync(file);
    }
  }, 30_000);

  test('tokens of the header changed, removed, doubled and swapped', () => {
    const rng = Rng.of(8);
    const tokens = text.match(/"[^"]*"|-?\d+|[{}[\],:]/g)!;
    const spare = [
      '-1',
      '0.5',
      '1e999',
      '-0',
      '9007199254740993',
      'null',
      '[]',
      '{}',
      '[[[1]]]',
    ].concat([
      '"a"',
      '"shape"',
      '"__proto__"',
      '"__metadata__"',
      '"constructor"',
      '"F16"',
      '0',
      '8',
      '4',
    ]);
    const seen = { opened: 0, refused: 0, 'another error': 0 };
    for (let i = 0; i < 10_000; i++) {
      const mutant = [...tokens];
      for (let k = rng.int(2); k >= 0; k--) {
        const [at, other] = [rng.int(mutant.length), rng.int(mutant.length)];
        const change = rng.int(4);
        if (change === 0) mutant[at] = spare[rng.int(spare.length)];
        else if (change === 1) mutant.splice(at, 1);
        else if (change === 2) mutant.splice(at, 0, mutant[other]);
        else [mutant[at], mutant[other]] = [mutant[other], mutant[at]];
      }
      const header = Buffer.from(mutant.join(''));
      const start = 8 + header.length;
      seen[outcome(() => parseHeader(header, start, start + payload, 'mutant'))]++;
    }
    expect(seen['another error']).toBe(0);
    expect(seen.opened).toBeGreaterThan(100);
    expect(seen.refused).toBeGreaterThan(1000);
  }, 30_000);

  test('every truncation', () => {
    for (let size = 0; size < bytes.length; size += 3) {
      const file = fresh();
      writeFileSync(file, bytes.subarray(0, size));
      expect(outcome(() => openSafetensors(file))).toBe('refused');
      rmSync(file);
    }
  }, 30_000);
});

/** Opens a file and reads all that it promises. */
function readAll(path: string): void {
  const file = openSafetensors(path);
  for (const [name, { dtype, shape }] of file.tensors)
    expect(file.read(name)).toMatchObject({ dtype, shape });
}

function outcome(run: () => unknown): 'opened' | 'refused' | 'another error' {
  try {
    run();
    return 'opened';
  } catch (error) {
    return AttuneError.is(error) ? 'refused' : 'another error';
  }
}

test('types that the format knows and we do not are refused by name', () => {
  for (const dtype of ['I8', 'I16', 'U16', 'U32', 'U64', 'F8_E8M0', 'C64'])
    expect(() => openSafetensors(craft(tensor(dtype, [1], [0, 1]), 1))).toThrow(
      `the tensor a is of type ${dtype}, which is not supported`,
    );
});

/** A weight of this type, and another tensor beside it. */
const pair = (dtype: string, name: string, length: number): string =>
  craft(
    JSON.stringify({
      'a.weight': { dtype, shape: [4], data_offsets: [0, length] },
      [name]: { dtype: 'F32', shape: [1], data_offsets: [length, length + 4] },
    }),
    length + 4,
  );

test('8-bit floats with scales beside them are refused by name: the numbers would be others', () => {
  for (const name of ['scaled_fp8', 'a.scale_weight', 'a.weight_scale', 'a.weight_scale_inv']) {
    expect(() => openSafetensors(pair('F8_E4M3', name, 4))).toThrow(
      `its 8-bit floats are to be multiplied by tensors beside them (${name})`,
    );
    expect(openSafetensors(pair('F16', name, 8)).tensors.size).toBe(2);
  }
  expect(openSafetensors(pair('F8_E4M3', 'dora_scale', 4)).tensors.size).toBe(2);
});

test('messages stay short however long the lie is', () => {
  const name = 'x'.repeat(1_000_000);
  const long = craft(JSON.stringify({ [name]: 3 }), 0);
  const wide = craft(
    tensor(
      'U8',
      Array.from({ length: 1_000_000 }, () => -1),
      [0, 1],
    ),
    1,
  );
  for (const file of [long, wide]) {
    let message = name;
    try {
      openSafetensors(file);
    } catch (error) {
      message = AttuneError.is(error) ? error.message : name;
    }
    expect(message.length).toBeLessThan(1000);
  }
});

test('a tensor larger than memory is an error, not a crash', () => {
  const length = 2 ** 43;
  const header = tensor('U8', [length], [0, length]);
  const file = craft(header, 0);
  truncateSync(file, 8 + header.length + length);
  expect(() => openSafetensors(file).read('a')).toThrow(/do not fit into memory/);
  truncateSync(file, 0);
});
