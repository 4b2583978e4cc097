import { createHash } from 'node:crypto';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, describe, expect, test } from 'vitest';

import { AttuneError } from '../../src/errors.ts';
import { f32, itemSize, type NDArray, zeros } from '../../src/runtime/array.ts';
import { Rng } from '../../src/runtime/rng.ts';
import {
  encodeSafetensors,
  openSafetensors,
  writeSafetensors,
} from '../../src/weights/safetensors.ts';

const folder = mkdtempSync(join(tmpdir(), 'weights-'));
afterAll(() => rmSync(folder, { recursive: true }));
let count = 0;
const fresh = (): string => join(folder, `${count++}.safetensors`);

test('every type survives the round trip, bit for bit', () => {
  const rng = Rng.of(3);
  const types = ['f32', 'f16', 'bf16', 'f64', 'i64', 'i32', 'u8', 'bool'] as const;
  const tensors: Record<string, NDArray> = Object.fromEntries(
    types.map((dtype, i) => {
      const array = zeros([i + 1, 3], dtype);
      const bytes = new Uint8Array(array.data.buffer as ArrayBuffer);
      bytes.forEach((_, k) => (bytes[k] = dtype === 'bool' ? rng.int(2) : rng.int(256)));
      return [`x.${dtype}`, array];
    }),
  );
  tensors.empty = zeros([0, 4]);
  tensors.scalar = f32([2.5], []);
  const file = fresh();
  writeSafetensors(file, tensors, { key: 'value ü' });
  const back = openSafetensors(file);
  expect(back.metadata).toEqual({ key: 'value ü' });
  expect([...back.tensors.keys()].toSorted()).toEqual(Object.keys(tensors).toSorted());
  for (const [name, { dtype, shape, data }] of Object.entries(tensors)) {
    const got = back.read(name);
    expect([got.dtype, got.shape]).toEqual([dtype, shape]);
    expect(Buffer.from(got.data.buffer, got.data.byteOffset, got.data.byteLength)).toEqual(
      Buffer.from(data.buffer, data.byteOffset, data.byteLength),
    );
  }
  expect(readFileSync(file)).toEqual(Buffer.from(encodeSafetensors(tensors, { key: 'value ü' })));
  const other = fresh();
  writeSafetensors(other, tensors, { key: 'another' });
  expect(openSafetensors(other).payloadHash()).toBe(back.payloadHash());
  const bytes = readFileSync(file);
  const payload = bytes.subarray(8 + Number(bytes.readBigUInt64LE()));
  expect(back.payloadHash()).toBe(createHash('sha256').update(payload).digest('hex'));
});

test('a tensor that a file lacks is named with the nearest it has', () => {
  const file = fresh();
  writeSafetensors(file, { 'a.weight': zeros([1]) });
  expect(() => openSafetensors(file).read('a.wieght')).toThrow(
    expect.objectContaining({
      code: 'MISSING_WEIGHT',
      message: expect.stringContaining('nearest: a.weight') as string,
    }),
  );
});

test('a symbolic link is followed to the real file', () => {
  const file = fresh();
  writeSafetensors(file, { a: zeros([1]) });
  const link = fresh();
  symlinkSync(file, link);
  expect(openSafetensors(link).path).toBe(realpathSync(file));
});

test('a file over 4 GB is read where it is asked', () => {
  const rows = 2 ** 30 + 5;
  const header = JSON.stringify({
    big: { dtype: 'F32', shape: [rows], data_offsets: [0, rows * 4] },
    last: { dtype: 'F32', shape: [2], data_offsets: [rows * 4, rows * 4 + 8] },
  });
  const head = Buffer.alloc(8);
  head.writeBigUInt64LE(BigInt(header.length));
  const file = fresh();
  writeFileSync(file, Buffer.concat([head, Buffer.from(header)]));
  truncateSync(file, 8 + header.length + rows * 4 + 8);
  const handle = openSync(file, 'r+');
  writeSync(
    handle,
    new Uint8Array(Float32Array.of(3, 4).buffer),
    0,
    8,
    8 + header.length + rows * 4,
  );
  closeSync(handle);
  expect([...openSafetensors(file).read('last').data]).toEqual([3, 4]);
  expect(openSafetensors(file).tensors.get('last')?.offset).toBeGreaterThan(2 ** 32);
  truncateSync(file, 0);
});

describe('writing', () => {
  test('tensors lie at multiples of their item size after a header padded to 8 bytes', () => {
    const tensors = new Map<string, NDArray>([
      ['a', zeros([3], 'u8')],
      ['b', zeros([3], 'f16')],
      ['c', zeros([3], 'i64')],
      ['d', zeros([1])],
      ['e', zeros([1], 'f64')],
    ]);
    const bytes = Buffer.from(encodeSafetensors(tensors));
    const file = fresh();
    writeFileSync(file, bytes);
    const { tensors: entries } = openSafetensors(file);
    for (const { offset, dtype } of entries.values()) expect(offset % itemSize[dtype]).toBe(0);
    expect(Number(bytes.readBigUInt64LE()) % 8).toBe(0);
    expect([...entries.keys()]).toEqual(['c', 'e', 'd', 'b', 'a']);
    expect(Buffer.from(encodeSafetensors([...tensors].toReversed()))).toEqual(bytes);
  });

  test('any name survives, and one that __proto__ would swallow', () => {
    const names = ['__proto__', 'constructor', '7', '', 'ü\n"\\'];
    const file = fresh();
    writeSafetensors(
      file,
      names.map((name, i) => [name, f32([i], [1])] as const),
    );
    const back = openSafetensors(file);
    expect(names.map((name) => back.read(name).data[0])).toEqual([0, 1, 2, 3, 4]);
  });

  const a = f32([1], [1]);
  const refused: Readonly<Record<string, readonly [Iterable<readonly [string, NDArray]>, RegExp]>> =
    {
      'a name twice': [
        [
          ['a', a],
          ['a', a],
        ],
        /occurs twice/,
      ],
      'the reserved name': [[['__metadata__', a]], /reserves/],
      'a shape unlike the data': [[['a', { ...a, shape: [3] }]], /needs 12 bytes, it has 4/],
    };

  test.each(Object.keys(refused))('%s is refused', (name) => {
    const [tensors, message] = refused[name];
    const file = fresh();
    expect(() => writeSafetensors(file, tensors)).toThrow(message);
    expect(() => encodeSafetensors(tensors)).toThrow(AttuneError);
    expect(existsSync(file)).toBe(false);
  });
});

function* stopping(): Generator<[string, NDArray]> {
  yield ['a', f32([2], [1])];
  throw new Error('gone');
}

describe('a write that fails leaves the old file and nothing else', () => {
  const at = join(folder, 'atomic');
  mkdirSync(at);
  const file = join(at, 'kept');
  writeSafetensors(file, { a: f32([1], [1]) });
  const before = readFileSync(file);
  const unchanged = (): void => {
    expect(readFileSync(file)).toEqual(before);
    expect(readdirSync(at)).toEqual(['kept']);
  };

  test('tensors that stop coming', () => {
    expect(() => writeSafetensors(file, stopping())).toThrow('gone');
    unchanged();
  });

  test.skipIf(!existsSync('/dev/full'))('a full disk', () => {
    symlinkSync('/dev/full', `${file}.${process.pid}.tmp`); // every write to it is refused for lack of space
    expect(() => writeSafetensors(file, { a: f32([2], [1]) })).toThrow(
      /ENOSPC.*Nothing was changed/,
    );
    unchanged();
  });

  test('a target that cannot be replaced', () => {
    const target = join(folder, 'occupied');
    mkdirSync(join(target, 'inside'), { recursive: true });
    const names = readdirSync(folder);
    expect(() => writeSafetensors(target, { a: f32([2], [1]) })).toThrow(
      expect.objectContaining({ code: 'WRITE_FAILED' }),
    );
    expect(readdirSync(folder)).toEqual(names);
  });

  test('a folder that is not there', () => {
    const nowhere = join(folder, 'no', 'such', 'place');
    expect(() => writeSafetensors(nowhere, { a: f32([1], [1]) })).toThrow(/Nothing was changed/);
  });
});
