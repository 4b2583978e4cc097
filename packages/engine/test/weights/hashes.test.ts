import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { HashBook } from '@attune/engine';
import { expect, test } from 'vitest';

const fresh = () => mkdtempSync(join(tmpdir(), 'hashes-'));
const truth = (bytes: string | Uint8Array) => createHash('sha256').update(bytes).digest('hex');
/** A file that lies there for longer than the book needs to trust its times. */
const old = resolve('package.json');

const notesIn = (folder: string) =>
  readdirSync(join(folder, 'hashes'), { recursive: true, encoding: 'utf8' })
    .map((name) => join(folder, 'hashes', name))
    .filter((path) => statSync(path).isFile());

test('the SHA-256 and the size of a file and of a part of it', () => {
  const book = new HashBook({ folder: fresh() });
  const bytes = readFileSync(old);
  expect(book.of(old)).toEqual({ size: bytes.length, sha256: truth(bytes) });
  const part = { offset: 5, length: 20 };
  expect(book.of(old, part)).toEqual({ size: 20, sha256: truth(bytes.subarray(5, 25)) });
  expect(book.of(old).sha256).toBe(truth(bytes));
});

test('is remembered: what a note says is believed until verify reads the file', () => {
  const folder = fresh();
  const sha256 = truth(readFileSync(old));
  expect(new HashBook({ folder }).find(old)).toBeUndefined();
  new HashBook({ folder }).of(old);
  const [note, ...others] = notesIn(folder);
  expect(others).toEqual([]);
  const lie = 'f'.repeat(64);
  writeFileSync(note, readFileSync(note, 'utf8').replace(sha256, lie));
  expect(new HashBook({ folder }).of(old).sha256).toBe(lie);
  expect(new HashBook({ folder }).find(old)).toBe(lie);
  expect(new HashBook({ folder, verify: true }).of(old).sha256).toBe(sha256);
  // Which puts the note right.
  expect(new HashBook({ folder }).of(old).sha256).toBe(sha256);
});

test('a file that changes under its old time and size is read again', () => {
  const folder = fresh();
  const path = join(fresh(), 'weights');
  const book = new HashBook({ folder });
  for (const text of ['one', 'two', 'six']) {
    writeFileSync(path, text);
    utimesSync(path, 1000, 1000);
    expect(new HashBook({ folder }).of(path).sha256).toBe(truth(text));
    expect(book.of(path).sha256).toBe(truth(text));
    expect(notesIn(folder)).toEqual([]);
  }
  // Of one that is only ever replaced, the hash is kept at once.
  new HashBook({ folder }).of(path, undefined, { settled: true });
  expect(new HashBook({ folder }).find(path)).toBe(truth('six'));
});

test('notes that are broken or cannot be written cost nothing but time', () => {
  const folder = fresh();
  const sha256 = truth(readFileSync(old));
  new HashBook({ folder }).of(old);
  const [note] = notesIn(folder);
  for (const text of ['', 'a', readFileSync(note, 'utf8').slice(0, -1)]) {
    writeFileSync(note, text);
    expect(new HashBook({ folder }).of(old).sha256).toBe(sha256);
  }
  expect(readFileSync(note, 'utf8').endsWith(sha256)).toBe(true);
  const refused = new HashBook({ folder: join(old, 'below', 'a-file') });
  expect(refused.writable).toBe(true);
  expect(refused.of(old).sha256).toBe(sha256);
  expect(refused.writable).toBe(false);
});

test('with an empty ATTUNE_CACHE nothing is remembered, least of all in the folder of the moment', () => {
  expect(process.env.ATTUNE_CACHE).toBe('');
  const book = new HashBook();
  expect(book.writable).toBe(false);
  expect(book.of(old).sha256).toBe(truth(readFileSync(old)));
  expect(new HashBook().find(old)).toBeUndefined();
  expect(existsSync('hashes')).toBe(false);
});

test('what is no file is refused', () => {
  const book = new HashBook({ folder: fresh() });
  expect(() => book.of(resolve('packages'))).toThrow(/is no file/);
  expect(() => book.of(resolve('nowhere'))).toThrow(/nowhere cannot be opened/);
  expect(() => book.of(old, { offset: 0, length: 2 ** 30 })).toThrow(/it ended at byte/);
});
