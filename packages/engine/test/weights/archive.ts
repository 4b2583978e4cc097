/** Archives and pickles made by hand, honest or not. */

export interface Entry {
  readonly name: string;
  readonly bytes: Uint8Array;
  /** Compression by the directory, and by the entry's own header. */
  readonly methods?: readonly [number, number];
  readonly flags?: number;
  /** What the directory says of its length and place instead of the truth. */
  readonly claims?: { readonly length?: number; readonly place?: number };
}

export interface Lies {
  /** Number of entries that the end record claims. */
  readonly count?: number;
  /** Place of the directory. */
  readonly start?: number;
  /** Fields of a 64-bit end record: count, length, place. */
  readonly long?: readonly [bigint, bigint, bigint];
  /** Where the locator says that this record is. */
  readonly record?: bigint;
}

const u16 = (n: number): Buffer => {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16LE(n);
  return bytes;
};
export const u32 = (n: number): Buffer => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(n);
  return bytes;
};
const u64 = (n: bigint): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(n);
  return bytes;
};

/** A zip archive of stored entries. */
export function archive(entries: readonly Entry[], lies: Lies = {}): Buffer {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let at = 0;
  const add = (...pieces: Buffer[]): void => {
    parts.push(...pieces);
    for (const { length } of pieces) at += length;
  };
  for (const { name, bytes, methods = [0, 0], flags = 0, claims = {} } of entries) {
    const own = Buffer.from(name);
    const sizes = [u32(0), u32(bytes.length), u32(bytes.length)];
    const { length = bytes.length, place = at } = claims;
    directory.push(
      Buffer.concat([
        u32(0x02014b50),
        u16(20),
        u16(20),
        u16(flags),
        u16(methods[0]),
        u32(0),
        u32(0),
        u32(length),
        u32(length),
        u16(own.length),
        u16(0),
        u16(0),
        u16(0),
        u16(0),
        u32(0),
        u32(place),
        own,
      ]),
    );
    add(u32(0x04034b50), u16(20), u16(flags), u16(methods[1]), u32(0), ...sizes);
    add(u16(own.length), u16(0), own, Buffer.from(bytes));
  }
  const start = at;
  add(...directory);
  const length = at - start;
  const { count = entries.length, long } = lies;
  if (long) {
    const record = lies.record ?? BigInt(at);
    add(u32(0x06064b50), u64(44n), u16(45), u16(45), u32(0), u32(0), u64(long[0]), u64(long[0]));
    add(u64(long[1]), u64(long[2]));
    add(u32(0x07064b50), u32(0), u64(record), u32(1));
  }
  const [shortCount, place] = long ? [0xffff, 0xffffffff] : [count, lies.start ?? start];
  add(u32(0x06054b50), u16(0), u16(0), u16(shortCount), u16(shortCount));
  add(u32(long ? 0xffffffff : length), u32(place), u16(0));
  return Buffer.concat(parts);
}

type Piece = number | Buffer | readonly Piece[];

/** Opcodes and their arguments as bytes. */
export const bytes = (...pieces: readonly Piece[]): Buffer =>
  Buffer.concat(
    pieces.map((piece) =>
      typeof piece === 'number'
        ? Buffer.from([piece])
        : Buffer.isBuffer(piece)
          ? piece
          : bytes(...piece),
    ),
  );

/** Opcodes by their letters in Python's pickletools. */
export const [MARK, STOP, NONE, TRUE, LIST, DICT, EMPTY] = [
  0x28, 0x2e, 0x4e, 0x88, 0x5d, 0x7d, 0x29,
];
export const [APPEND, APPENDS, SETITEM, SETITEMS, TUPLE] = [0x61, 0x65, 0x73, 0x75, 0x74];
export const [REDUCE, BUILD, NEWOBJ, PERSISTENT, POP] = [0x52, 0x62, 0x81, 0x51, 0x30];

export const text = (words: string): Buffer =>
  bytes(0x58, u32(Buffer.byteLength(words)), Buffer.from(words));
export const named = (module: string, name: string): Buffer => Buffer.from(`c${module}\n${name}\n`);
/** A number below 2³¹. */
export const int = (n: number): Buffer => bytes(0x4a, u32(n));
export const tuple = (...items: readonly Piece[]): Buffer => bytes(MARK, items, TUPLE);
/** Keeps the topmost value under a number, and gives it again. */
export const put = (k: number): Buffer => bytes(0x72, u32(k));
export const get = (k: number): Buffer => bytes(0x6a, u32(k));

/** The storage `0` of f32 numbers, as torch.save refers to it. */
export const storage = (count: number): Buffer =>
  bytes(
    tuple(text('storage'), named('torch', 'FloatStorage'), text('0'), text('cpu'), int(count)),
    PERSISTENT,
  );

/** A tensor in that storage. */
export const tensor = (shape: readonly number[], steps: readonly number[], count: number): Buffer =>
  bytes(
    named('torch._utils', '_rebuild_tensor_v2'),
    tuple(
      storage(count),
      int(0),
      tuple(...shape.map(int)),
      tuple(...steps.map(int)),
      0x89,
      named('collections', 'OrderedDict'),
      EMPTY,
      REDUCE,
    ),
    REDUCE,
  );

/** A file of torch.save with this pickle and a storage of `count` numbers. */
export const checkpoint = (pickle: Buffer, count = 4, more: readonly Entry[] = []): Buffer =>
  archive([
    { name: 'archive/data.pkl', bytes: bytes(0x80, 2, pickle, STOP) },
    { name: 'archive/data/0', bytes: Buffer.alloc(4 * count) },
    ...more,
  ]);
