import {
  closeSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { describe, expect, test } from 'vitest';

import {
  AttuneError,
  encodeSafetensors,
  f32,
  type NDArray,
  openSafetensors,
  Rng,
  Weights,
  writeSafetensors,
  zeros,
} from '../../src/index.ts';

const folder = mkdtempSync(join(tmpdir(), 'weights-'));
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
  'entry no object': [() => craft('{"a":3}', 0), /no object/],
  'unknown dtype': [() => craft(tensor('F33', [2], [0, 8]), 8), /no known type/],
  'unsupported dtype': [() => craft(tensor('F8_E4M3', [8], [0, 8]), 8), /not supported/],
  'negative dim': [() => craft(tensor('F32', [-2], [0, 8]), 8), /the shape of a/],
  'fractional dim': [() => craft(tensor('F32', [0.5], [0, 2]), 2), /the shape of a/],
  'shape that overflows': [() => craft(tensor('F32', [2 ** 50, 2 ** 50], [0, 8]), 8), /too large/],
  'length unlike shape': [() => craft(tensor('F32', [3], [0, 8]), 8), /needs 12 bytes/],
  'offsets reversed': [() => craft(tensor('F32', [2], [8, 0]), 8), /data_offsets/],
  'offsets not two': [() => craft(tensor('F32', [2], [0]), 8), /data_offsets/],
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
  'metadata no text': [() => craft(`{"__metadata__":{"x":1},${good.slice(1)}`, 8), /no text/],
  'unknown key': [
    () => craft('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}}', 1),
    /unknown key x/,
  ],
  'a folder': [() => folder, /no file/],
  missing: [() => join(folder, 'nowhere'), /cannot be opened/],
};

describe('a header that lies is refused', () => {
  test.each(Object.keys(lies))('%s', (name) => {
    const [make, message] = lies[name];
    expect(() => openSafetensors(make())).toThrow(message);
    expect(() => openSafetensors(make())).toThrow(AttuneError);
  });
});

test('mutations of a valid header give a file or an error of ours', () => {
  const rng = Rng.of(7);
  const bytes = encodeSafetensors(
    { a: f32([1, 2], [2]), 'b.c': zeros([1, 3], 'i64') },
    { note: 'x' },
  );
  for (let i = 0; i < 2000; i++) {
    const copy = Uint8Array.from(bytes);
    for (let k = rng.int(4); k >= 0; k--) copy[rng.int(copy.length)] = rng.int(256);
    const file = join(folder, 'mutant');
    writeFileSync(file, copy);
    expect(opensOrRefuses(file)).toBe(true);
  }
});

function opensOrRefuses(file: string): boolean {
  try {
    openSafetensors(file);
    return true;
  } catch (error) {
    return AttuneError.is(error);
  }
}

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
});

test('a file over 4 GB is read where it is asked', () => {
  const rows = 2 ** 30 + 5;
  const header = JSON.stringify({
    big: { dtype: 'F32', shape: [rows], data_offsets: [0, rows * 4] },
    last: { dtype: 'F32', shape: [2], data_offsets: [rows * 4, rows * 4 + 8] },
  });
  const file = craft(header, 0);
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
  truncateSync(file, 0);
});

test('a write that fails leaves the old file and nothing else', () => {
  const file = fresh();
  writeSafetensors(file, { a: f32([1], [1]) });
  const broken = {
    dtype: 'f32',
    shape: [1],
    get data(): Float32Array {
      throw new Error('gone');
    },
  } as NDArray;
  expect(() => writeSafetensors(file, { a: f32([2], [1]), b: broken })).toThrow('gone');
  expect([...openSafetensors(file).read('a').data]).toEqual([1]);
  expect(() => writeSafetensors(join(folder, 'no', 'such', 'place'), { a: f32([1], [1]) })).toThrow(
    /Nothing was changed/,
  );
  expect(readdirSync(folder).filter((name) => name.endsWith('.tmp'))).toEqual([]);
});

describe('Weights', () => {
  test('views rename, prefix and overlay', () => {
    const a = Weights.fromArrays({ 'x.w': f32([1], [1]), 'y.w': f32([2], [1]) });
    const b = Weights.fromArrays({ 'x.w': f32([3], [1]) });
    expect([...a.under('x.').names()]).toEqual(['w']);
    expect([...a.prefixed('p.').names()]).toEqual(['p.x.w', 'p.y.w']);
    expect([...Weights.overlay(a, b).entry('x.w').load().data]).toEqual([3]);
    expect(() => a.renamed(() => 'same')).toThrow(/both mean same/);
    expect(() => a.entry('x.v')).toThrow(/nearest: x\.w/);
  });

  test('a sharded index is checked against its shards', () => {
    const index = join(folder, 'model.safetensors.index.json');
    writeSafetensors(join(folder, 's1.safetensors'), { a: f32([1], [1]) });
    writeSafetensors(join(folder, 's2.safetensors'), { b: f32([2], [1]) });
    const put = (map: Record<string, string>) =>
      writeFileSync(index, JSON.stringify({ weight_map: map }));
    put({ a: 's1.safetensors', b: 's2.safetensors' });
    expect([...Weights.fromFolderIndex(index).entry('b').load().data]).toEqual([2]);
    put({ a: 's1.safetensors', b: 's1.safetensors' });
    expect(() => Weights.fromFolderIndex(index)).toThrow(/does not hold it/);
    put({ a: 's1.safetensors', b: '../s2.safetensors' });
    expect(() => Weights.fromFolderIndex(index)).toThrow(/outside the folder/);
    put({ b: 's2.safetensors', a: 's2.safetensors' });
    expect(() => Weights.fromFolderIndex(index)).toThrow(/does not hold it/);
  });

  test('a symbolic link is followed to the real file', () => {
    const file = fresh();
    writeSafetensors(file, { a: f32([1], [1]) });
    const link = fresh();
    symlinkSync(file, link);
    expect(Weights.fromFile(link).entry('a').source?.file).toBe(openSafetensors(file).path);
  });
});
