/** The directory of a zip archive whose entries are stored as they are, read as if its author meant harm. */

import type { AttuneError } from '../errors.ts';
import { brief } from './header.ts';

/** A stored entry: its bytes lie in the archive unchanged. */
export interface ZipEntry {
  readonly name: string;
  /** First byte, counted from the start of the archive. */
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
}

/** Reads `length` bytes from `offset`. */
type Read = (offset: number, length: number) => Uint8Array;
type Fail = (what: string) => AttuneError;

const [END, END64, LOCATOR64, CENTRAL, LOCAL] = [
  0x06054b50, 0x06064b50, 0x07064b50, 0x02014b50, 0x04034b50,
];
const END_SIZE = 22;
const LONGEST_COMMENT = 0xffff;
/** Largest directory read, in bytes. */
const MOST = 16 * 2 ** 20;

/**
 * The entries by name. Throws by `fail` for anything but a whole, plain archive: compressed or encrypted
 * entries, equal names, entries that overlap each other or the directory, several disks.
 */
export function zipEntries(size: number, read: Read, fail: Fail): Map<string, ZipEntry> {
  const { count, start, length } = directory(size, read, fail);
  if (length > MOST) throw fail(`its directory claims ${length} bytes`);
  if (start + length > size) throw fail('its directory lies outside it');
  const bytes = Buffer.from(read(start, length));
  const entries = new Map<string, ZipEntry>();
  let at = 0;
  for (let i = 0; i < count; i++) {
    const { entry, next } = central(bytes, at, fail);
    if (entries.has(entry.name)) throw fail(`it holds two entries named ${brief(entry.name)}`);
    entries.set(entry.name, located(entry, start, read, fail));
    at = next;
  }
  if (at !== length) throw fail('its directory has bytes that belong to no entry');
  const ordered = [...entries.values()].toSorted((a, b) => a.offset - b.offset);
  for (const [i, { name, offset }] of ordered.entries()) {
    const before = ordered[i - 1];
    if (before && before.offset + before.length > offset)
      throw fail(`its entries ${brief(before.name)} and ${brief(name)} overlap`);
  }
  return entries;
}

interface Directory {
  readonly count: number;
  readonly start: number;
  readonly length: number;
}

function directory(size: number, read: Read, fail: Fail): Directory {
  const from = Math.max(0, size - END_SIZE - LONGEST_COMMENT);
  const tail = Buffer.from(read(from, size - from));
  let at = tail.length - END_SIZE;
  const isEnd = () =>
    tail.readUInt32LE(at) === END && tail.readUInt16LE(at + 20) === tail.length - at - END_SIZE;
  while (at >= 0 && !isEnd()) at--;
  if (at < 0) throw fail('it has no end record: it is cut short');
  if (tail.readUInt16LE(at + 4) !== 0 && tail.readUInt16LE(at + 4) !== 0xffff)
    throw fail('it is one of several disks');
  const short = {
    count: tail.readUInt16LE(at + 10),
    length: tail.readUInt32LE(at + 12),
    start: tail.readUInt32LE(at + 16),
  };
  const isLong =
    short.count === 0xffff || short.length === 0xffffffff || short.start === 0xffffffff;
  if (!isLong) return short;
  const locator = from + at - 20;
  if (locator < 0) throw fail('its long directory is missing');
  const pointer = Buffer.from(read(locator, 20));
  if (pointer.readUInt32LE(0) !== LOCATOR64) throw fail('its long directory is missing');
  const place = whole(pointer, 8, fail);
  if (place + 56 > size) throw fail('its long directory lies outside it');
  const record = Buffer.from(read(place, 56));
  if (record.readUInt32LE(0) !== END64) throw fail('its long directory is missing');
  return {
    count: whole(record, 32, fail),
    length: whole(record, 40, fail),
    start: whole(record, 48, fail),
  };
}

interface Listed {
  readonly name: string;
  readonly length: number;
  /** Of the entry's own header. */
  readonly header: number;
}

function central(bytes: Buffer, at: number, fail: Fail): { entry: Listed; next: number } {
  if (at + 46 > bytes.length || bytes.readUInt32LE(at) !== CENTRAL)
    throw fail('its directory is damaged');
  const [nameLength, extraLength, commentLength] = [28, 30, 32].map((k) =>
    bytes.readUInt16LE(at + k),
  );
  const next = at + 46 + nameLength + extraLength + commentLength;
  if (next > bytes.length) throw fail('its directory is damaged');
  const name = bytes.toString('utf8', at + 46, at + 46 + nameLength);
  if (bytes.readUInt16LE(at + 8) & 1) throw fail(`its entry ${brief(name)} is encrypted`);
  if (bytes.readUInt16LE(at + 10) !== 0)
    throw fail(`its entry ${brief(name)} is compressed; tensors have to be stored as they are`);
  let [packed, length, header] = [20, 24, 42].map((k) => bytes.readUInt32LE(at + k));
  const extra = bytes.subarray(at + 46 + nameLength, at + 46 + nameLength + extraLength);
  const long = longFields(extra, fail);
  const take = (value: number): number => {
    if (value !== 0xffffffff) return value;
    const wide = long.shift();
    if (wide === undefined) throw fail(`its entry ${brief(name)} lacks its long sizes`);
    return wide;
  };
  length = take(length);
  packed = take(packed);
  header = take(header);
  if (packed !== length) throw fail(`its entry ${brief(name)} has two lengths`);
  return { entry: { name, length, header }, next };
}

/** The 64-bit fields of an entry, in order: length, packed length, place; only those that need them. */
function longFields(extra: Buffer, fail: Fail): number[] {
  for (let at = 0; at + 4 <= extra.length;) {
    const [id, length] = [extra.readUInt16LE(at), extra.readUInt16LE(at + 2)];
    if (at + 4 + length > extra.length) throw fail('its directory is damaged');
    if (id === 1) {
      const count = Math.floor(length / 8);
      return Array.from({ length: count }, (_, i) => whole(extra, at + 4 + 8 * i, fail));
    }
    at += 4 + length;
  }
  return [];
}

/** Where a listed entry's bytes begin, by its own header. */
function located({ name, length, header }: Listed, end: number, read: Read, fail: Fail): ZipEntry {
  if (header + 30 > end) throw fail(`its entry ${brief(name)} lies outside it`);
  const own = Buffer.from(read(header, 30));
  if (own.readUInt32LE(0) !== LOCAL) throw fail(`its entry ${brief(name)} has no header`);
  if (own.readUInt16LE(8) !== 0)
    throw fail(`its entry ${brief(name)} is stored, but compressed by its own header`);
  const offset = header + 30 + own.readUInt16LE(26) + own.readUInt16LE(28);
  if (offset + length > end) throw fail(`its entry ${brief(name)} reaches into the directory`);
  return { name, offset, length };
}

function whole(bytes: Buffer, at: number, fail: Fail): number {
  const value = Number(bytes.readBigUInt64LE(at));
  if (!Number.isSafeInteger(value)) throw fail('it claims sizes that no file has');
  return value;
}
