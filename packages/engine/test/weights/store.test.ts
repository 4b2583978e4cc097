import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterAll, describe, expect, test } from 'vitest';

import { AttuneError } from '../../src/errors.ts';
import { f32, type NDArray } from '../../src/runtime/array.ts';
import { openSafetensors, writeSafetensors } from '../../src/weights/safetensors.ts';
import { Weights } from '../../src/weights/store.ts';

const folder = mkdtempSync(join(tmpdir(), 'store-'));
afterAll(() => rmSync(folder, { recursive: true }));

const one = (value: number): NDArray => f32([value], [1]);
const value = (weights: Weights, name: string): number =>
  Number(weights.entry(name).load().data[0]);

describe('views', () => {
  const a = Weights.fromArrays({ 'x.w': one(1), 'y.w': one(2) });
  const b = Weights.fromArrays({ 'x.w': one(3) });

  test('prefixes are added and taken off', () => {
    expect([...a.under('x.').names()]).toEqual(['w']);
    expect([...a.prefixed('p.').names()]).toEqual(['p.x.w', 'p.y.w']);
    expect(value(a.prefixed('p.').under('p.y.'), 'w')).toBe(2);
    expect(a.prefixed('p.').entry('p.x.w').name).toBe('p.x.w');
    expect([...a.names()]).toEqual(['x.w', 'y.w']);
  });

  test('a table renames as a function does, and leaves out what it lacks', () => {
    const byTable = a.renamed(new Map([['y.w', 'z']]));
    expect([...byTable.names()]).toEqual(['z']);
    expect(value(byTable, 'z')).toBe(2);
    const byFunction = a.renamed((name) => (name === 'y.w' ? 'z' : undefined));
    expect([...byFunction.names()]).toEqual(['z']);
  });

  test('two weights with one new name are refused by their old names', () => {
    expect(() => a.renamed(() => 'same')).toThrow('x.w and y.w both mean same');
  });

  test('of equal names the last counts; disjoint refuses them', () => {
    expect(value(Weights.overlay(a, b), 'x.w')).toBe(3);
    expect(value(Weights.overlay(b, a), 'x.w')).toBe(1);
    expect(() => Weights.disjoint(a, b)).toThrow(expect.objectContaining({ code: 'NAME_CLASH' }));
    expect(Weights.disjoint(a, b.prefixed('b.')).size).toBe(3);
  });

  test('arrays come from a Map or an object', () => {
    expect(value(Weights.fromArrays(new Map([['__proto__', one(5)]])), '__proto__')).toBe(5);
    expect(Weights.fromArrays({ a: one(1) }).entry('a').source).toBeUndefined();
  });

  test('nothing is read before load', () => {
    const file = join(folder, 'lazy.safetensors');
    writeSafetensors(file, { a: one(1) });
    const weights = Weights.fromFile(file).prefixed('p.');
    rmSync(file);
    expect(weights.entry('p.a').shape).toEqual([1]);
    expect(() => weights.entry('p.a').load()).toThrow(
      expect.objectContaining({ code: 'MISSING_FILE' }),
    );
  });
});

describe('a missing name', () => {
  // Long enough that measuring all of them would take far longer than a test may.
  const path = 'transformer_blocks.0.'.repeat(10);
  const names = Array.from({ length: 50_000 }, (_, i) => `down.${i}.${path}attention.weight`);
  const large = Weights.fromArrays(new Map(names.map((name) => [name, one(0)])));

  test('is answered with the nearest ones, also in a large store', () => {
    expect(() => large.entry(`down.41.${path}atention.wieght`)).toThrow(
      `nearest: down.41.${path}attention.weight,`,
    );
  });

  test('does not drown the message in long names', () => {
    const long = 'x'.repeat(1_000_000);
    const weights = Weights.fromArrays({ [long]: one(0) });
    expect(() => weights.entry('x')).toThrow('There is no weight x; nearest: none.');
    let message = '';
    try {
      large.entry(long);
    } catch (error) {
      message = AttuneError.is(error) ? error.message : '';
    }
    expect(message).toMatch(/^There is no weight x{200}…; nearest: down/);
    expect(message.length).toBeLessThan(1200);
  });
});

describe('a sharded index', () => {
  const index = join(folder, 'model.safetensors.index.json');
  writeSafetensors(join(folder, 's1.safetensors'), { a: one(1) });
  writeSafetensors(join(folder, 's2.safetensors'), { b: one(2) });
  const open = (map: unknown): Weights => {
    writeFileSync(index, JSON.stringify({ metadata: {}, weight_map: map }));
    return Weights.fromFolderIndex(index);
  };

  test('joins its shards', () => {
    const weights = open({ a: 's1.safetensors', b: 's2.safetensors' });
    expect([...weights.names()]).toEqual(['a', 'b']);
    expect(value(weights, 'b')).toBe(2);
  });

  const lies: Readonly<Record<string, readonly [unknown, RegExp]>> = {
    'a name in the wrong shard': [{ a: 's1.safetensors', b: 's1.safetensors' }, /does not hold it/],
    'a name that is nowhere': [{ a: 's1.safetensors', c: 's1.safetensors' }, /does not hold it/],
    'a shard with more names': [{ c: 's2.safetensors' }, /holds b, which the index lacks/],
    'a shard above the folder': [{ a: '../s1.safetensors' }, /outside the folder/],
    'a shard above the folder by a detour': [{ a: 'x/../../s1' }, /outside the folder/],
    'an absolute shard': [{ a: join(folder, 's1.safetensors') }, /outside the folder/],
    'a shard that is not there': [{ a: 's3.safetensors' }, /cannot be opened/],
    'a shard with a zero byte': [{ a: 's1\0' }, /cannot be opened/],
    'a shard that is a folder': [{ a: '.' }, /no file but a folder/],
    'an empty shard name': [{ a: '' }, /no file name/],
    'a shard that is no text': [{ a: 1 }, /no file name/],
    'a weight_map that is a list': [['s1.safetensors'], /no weight_map/],
    'no weight_map': [undefined, /no weight_map/],
  };

  test.each(Object.keys(lies))('%s is refused', (name) => {
    const [map, message] = lies[name];
    expect(() => open(map)).toThrow(message);
    expect(() => open(map)).toThrow(AttuneError);
  });

  test('an index that is no JSON, or not there, is refused', () => {
    writeFileSync(index, '{"weight_map":');
    expect(() => Weights.fromFolderIndex(index)).toThrow(/it is no JSON/);
    expect(() => Weights.fromFolderIndex(join(folder, 'nowhere'))).toThrow(/cannot be opened/);
  });

  test('its shards may be symbolic links out of the folder, as caches make them', () => {
    const snapshot = join(folder, 'snapshot');
    mkdirSync(snapshot);
    symlinkSync(join(folder, 's1.safetensors'), join(snapshot, 'shard'));
    const file = join(snapshot, 'index.json');
    writeFileSync(file, JSON.stringify({ weight_map: { a: 'shard' } }));
    const { source } = Weights.fromFolderIndex(file).entry('a');
    expect(source?.file).toBe(openSafetensors(join(folder, 's1.safetensors')).path);
  });
});
