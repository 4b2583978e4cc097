import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, describe, expect, test } from 'vitest';

import { AttuneError } from '../../src/errors.ts';
import { Rng } from '../../src/runtime/rng.ts';
import { Weights } from '../../src/weights/store.ts';
import { openTorch } from '../../src/weights/torch.ts';

const fixtures = 'test/parity/fixtures/checkpoints';
const folder = mkdtempSync(join(tmpdir(), 'torch-'));
afterAll(() => rmSync(folder, { recursive: true }));

const values = (weights: Weights) =>
  Object.fromEntries(
    [...weights.names()].toSorted().map((name) => [name, weights.entry(name).load()]),
  );

test.each([
  ['bare.pth', 'bare'],
  ['wrapped.ckpt', 'bare'],
  ['nested.pt', 'nested'],
  ['embedding.pt', 'embedding'],
])('%s holds what torch put there', (name, truth) => {
  const got = values(Weights.fromFile(join(fixtures, name)));
  expect(got).toEqual(values(Weights.fromFile(join(fixtures, `${truth}.safetensors`))));
});

test('dense tensors lie in the file itself, where a session can map them', () => {
  const file = join(fixtures, 'bare.pth');
  const { tensors } = openTorch(file);
  const bytes = readFileSync(file);
  for (const tensor of tensors.values()) {
    const { name, place } = tensor;
    const { data } = tensor.load();
    expect({ name, dense: place !== undefined }).toEqual({
      name,
      dense: !['turned', 'part'].includes(name),
    });
    if (!place) continue;
    const there = bytes.subarray(place.offset, place.offset + place.length);
    expect(Buffer.from(data.buffer, data.byteOffset, data.byteLength).equals(there)).toBe(true);
  }
});

describe('refused by name', () => {
  test.each([
    ['code.pt', /posix\.system/],
    ['thing.pt', /checkpoints\.Thing|NEWOBJ/],
    ['numpy.pt', /numpy/],
    ['complex.pt', /torch\.ComplexFloatStorage/],
    ['eights.pt', /torch\.float8_e4m3fn, which is not read.*safetensors/],
    ['repeated.pt', /repeats its 2 elements/],
    ['legacy.pt', /safetensors/],
    ['pickle.pkl', /safetensors/],
    ['empty.pt', /holds no tensors/],
    ['compressed.pt', /compressed/],
    ['pictures.zip', /none that torch\.save writes/],
  ])('%s', (name, message) => {
    const open = () => Weights.fromFile(join(fixtures, name));
    expect(open).toThrow(AttuneError);
    expect(open).toThrow(message);
    expect(open).toThrow(name);
  });
});

test('2,000 damaged files: each opens or ends in one clear error, at once', () => {
  const good = readFileSync(join(fixtures, 'wrapped.ckpt'));
  const rng = Rng.of(7);
  let refused = 0;
  for (let i = 0; i < 2000; i++) {
    const own = rng.fork(i);
    let bytes = Buffer.from(good);
    for (let k = own.int(4); k >= 0; k--) bytes[own.int(bytes.length)] = own.int(256);
    if (own.uniform() < 0.2) bytes = bytes.subarray(0, own.int(bytes.length));
    bytes[0] = 0x50; // still taken for an archive
    const file = join(folder, 'damaged.ckpt');
    writeFileSync(file, bytes);
    try {
      const weights = Weights.fromFile(file);
      for (const name of weights.names()) weights.entry(name).load();
    } catch (error) {
      if (!AttuneError.is(error)) throw error;
      expect(error.message.length).toBeLessThan(1000);
      refused++;
    }
  }
  expect(refused).toBeGreaterThan(300);
});
