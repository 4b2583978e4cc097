import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { expect, test } from 'vitest';

import { HashBook, hashBookFile } from '../src/stack/hashes.ts';

const fresh = () => mkdtempSync(join(tmpdir(), 'hashes-'));
const truth = (path: string) => createHash('sha256').update(readFileSync(path)).digest('hex');
/** A file that lies there for longer than the book needs to trust its times. */
const old = resolve('package.json');

test('the SHA-256 and the size of a file', () => {
  const found = new HashBook({ file: join(fresh(), 'book.json') }).of(old);
  expect(found).toEqual({ size: readFileSync(old).length, sha256: truth(old) });
});

test('is remembered: what the book says is believed until verify reads the file', () => {
  const file = join(fresh(), 'book.json');
  new HashBook({ file }).of(old);
  const lie = 'f'.repeat(64);
  writeFileSync(file, readFileSync(file, 'utf8').replace(truth(old), lie));
  expect(new HashBook({ file }).of(old).sha256).toBe(lie);
  expect(new HashBook({ file, verify: true }).of(old).sha256).toBe(truth(old));
  // Which puts the book right.
  expect(new HashBook({ file }).of(old).sha256).toBe(truth(old));
});

test('a file that changes under its old time and size is read again', () => {
  const folder = fresh();
  const [path, file] = [join(folder, 'weights'), join(folder, 'book.json')];
  for (const text of ['one', 'two', 'six']) {
    writeFileSync(path, text);
    utimesSync(path, 1000, 1000);
    expect(new HashBook({ file }).of(path).sha256).toBe(truth(path));
  }
});

test('a book that is broken or cannot be written costs nothing but time', () => {
  const file = join(fresh(), 'book.json');
  writeFileSync(file, '{"a":');
  expect(new HashBook({ file }).of(old).sha256).toBe(truth(old));
  expect(new HashBook({ file: join(old, 'below', 'a-file') }).of(old).sha256).toBe(truth(old));
});

test('with an empty ATTUNE_CACHE nothing is remembered, least of all in the folder of the moment', () => {
  expect(process.env.ATTUNE_CACHE).toBe('');
  expect(hashBookFile()).toBeUndefined();
  expect(new HashBook().of(old).sha256).toBe(truth(old));
  expect(existsSync('hashes.json')).toBe(false);
});

test('what is no file is refused', () => {
  expect(() => new HashBook({ file: join(fresh(), 'b') }).of(resolve('packages'))).toThrow(
    /is no file/,
  );
});
