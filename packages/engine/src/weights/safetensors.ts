/** Files of tensors: read lazily and strictly, written atomically. */

import { createHash } from 'node:crypto';
import {
  closeSync,
  fstatSync,
  fsyncSync,
  openSync,
  readSync,
  realpathSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs';

import { AttuneError, badFile } from '../errors.ts';
import { bytesOf, type DType, fromBytes, itemSize, type NDArray } from '../runtime/array.ts';
import { dtypes, maxHeader, parseHeader, type TensorEntry } from './header.ts';

/** An open file: its header is in memory, tensors are read on demand. Keeps no handle. */
export interface SafetensorsFile {
  /** The real path, symbolic links resolved. */
  readonly path: string;
  /** Bytes. */
  readonly size: number;
  readonly metadata: Readonly<Record<string, string>>;
  readonly tensors: ReadonlyMap<string, TensorEntry>;
  /** The values of one tensor, freshly read. */
  read(name: string): NDArray;
  /** SHA-256 of the bytes after the header, in hexadecimal: unchanged by edits of the metadata. */
  payloadHash(): string;
}

/** Opens a .safetensors file and checks its whole header. Files may be larger than 4 GB. */
export function openSafetensors(file: string): SafetensorsFile {
  const { path, size, header, start } = withFile(file, (handle, real) => {
    const stat = fstatSync(handle);
    if (!stat.isFile()) throw badFile(file, 'it is no file but a folder or device');
    if (stat.size < 8)
      throw badFile(file, `it has ${stat.size} bytes, too few for a safetensors header`);
    const length = Buffer.from(readBytes(handle, 0, 8, file)).readBigUInt64LE();
    if (length > BigInt(maxHeader))
      throw badFile(
        file,
        `its header claims ${length} bytes; it is no safetensors file, or a hostile one`,
      );
    const bytes = Number(length);
    if (bytes + 8 > stat.size)
      throw badFile(file, `its header claims ${bytes} bytes, but it has only ${stat.size}`);
    const text = readBytes(handle, 8, bytes, file);
    return {
      path: real,
      size: stat.size,
      start: 8 + bytes,
      header: parseHeader(text, 8 + bytes, stat.size, file),
    };
  });
  return {
    path,
    size,
    ...header,
    read: (name) => {
      const entry = header.tensors.get(name);
      if (!entry)
        throw new AttuneError('MISSING_WEIGHT', `${file} has no tensor ${name}.`, { name });
      const bytes = withFile(path, (handle) => readBytes(handle, entry.offset, entry.length, file));
      return fromBytes(bytes, entry.dtype, entry.shape);
    },
    payloadHash: () =>
      withFile(path, (handle) => {
        const hash = createHash('sha256');
        for (let at = start; at < size; at += chunk)
          hash.update(readBytes(handle, at, Math.min(chunk, size - at), file));
        return hash.digest('hex');
      }),
  };
}

/** Bytes handled at a time. */
const chunk = 16 * 2 ** 20;

function withFile<T>(file: string, use: (handle: number, real: string) => T): T {
  let handle: number;
  let real: string;
  try {
    real = realpathSync(file);
    handle = openSync(real, 'r');
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new AttuneError('MISSING_FILE', `${file} cannot be opened: ${reason}.`, { file });
  }
  try {
    return use(handle, real);
  } finally {
    closeSync(handle);
  }
}

function readBytes(handle: number, from: number, length: number, file: string): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let done = 0; done < length;) {
    const want = Math.min(length - done, 2 ** 30);
    const got = readSync(handle, bytes, done, want, from + done);
    if (got === 0) throw badFile(file, `it ended at byte ${from + done} while being read`);
    done += got;
  }
  return bytes;
}

const namesOf = Object.fromEntries(
  Object.entries(dtypes).map(([name, dtype]) => [dtype, name]),
) as Readonly<Record<DType, string>>;

/** The header of a file that holds these tensors: wider types first, then by name, as the reference writes. */
function layOut(
  tensors: Readonly<Record<string, NDArray>>,
  metadata: Readonly<Record<string, string>>,
): { head: Uint8Array; order: readonly string[] } {
  const order = Object.keys(tensors).toSorted(
    (a, b) => itemSize[tensors[b].dtype] - itemSize[tensors[a].dtype] || (a < b ? -1 : 1),
  );
  const header: Record<string, unknown> =
    Object.keys(metadata).length > 0 ? { __metadata__: metadata } : {};
  let at = 0;
  for (const name of order) {
    const { dtype, shape } = tensors[name];
    const { length } = bytesOf(tensors[name]);
    header[name] = { dtype: namesOf[dtype], shape, data_offsets: [at, at + length] };
    at += length;
  }
  const json = Buffer.from(JSON.stringify(header));
  const padded = Buffer.alloc(8 + Math.ceil(json.length / 8) * 8, ' ');
  padded.writeBigUInt64LE(BigInt(padded.length - 8));
  json.copy(padded, 8);
  return { head: padded, order };
}

/**
 * Writes tensors to a file, all or nothing: a temporary file beside it, made durable, then renamed.
 * Equal tensors and metadata give equal bytes.
 */
export function writeSafetensors(
  path: string,
  tensors: Readonly<Record<string, NDArray>>,
  metadata: Readonly<Record<string, string>> = {},
): void {
  const { head, order } = layOut(tensors, metadata);
  const temporary = `${path}.${process.pid}.tmp`;
  let handle: number | undefined;
  try {
    handle = openSync(temporary, 'w');
    writeAll(handle, head);
    for (const name of order) writeAll(handle, bytesOf(tensors[name]));
    fsyncSync(handle);
    closeSync(handle);
    handle = undefined;
    renameSync(temporary, path);
  } catch (error) {
    if (handle !== undefined) closeSync(handle);
    rmSync(temporary, { force: true });
    const reason = error instanceof Error ? error.message : String(error);
    throw new AttuneError(
      'WRITE_FAILED',
      `${path} could not be written: ${reason}. Nothing was changed.`,
      {
        path,
      },
    );
  }
}

/** The bytes of a file that holds these tensors. */
export function encodeSafetensors(
  tensors: Readonly<Record<string, NDArray>>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  const { head, order } = layOut(tensors, metadata);
  return Buffer.concat([head, ...order.map((name) => bytesOf(tensors[name]))]);
}

function writeAll(handle: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length;)
    done += writeSync(handle, bytes, done, Math.min(bytes.length - done, chunk));
}
