import {
  closeSync,
  openSync,
  readSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
  fsyncSync,
} from 'node:fs';

import { badFile } from '../errors.ts';
import { bytesOf, type DType, fromBytes, itemSize, type NDArray } from '../runtime/array.ts';

const codes: Record<string, DType> = {
  F32: 'f32',
  F16: 'f16',
  BF16: 'bf16',
  F64: 'f64',
  I64: 'i64',
  I32: 'i32',
  U8: 'u8',
  BOOL: 'bool',
};
const names = Object.fromEntries(Object.entries(codes).map(([a, b]) => [b, a]));

export interface TensorEntry {
  name: string;
  dtype: DType;
  shape: number[];
  offset: number;
  length: number;
}
export interface SafetensorsFile {
  path: string;
  size: number;
  metadata: Record<string, string>;
  tensors: Map<string, TensorEntry>;
  read(name: string): NDArray;
}

export function openSafetensors(file: string): SafetensorsFile {
  const path = realpathSync(file);
  const size = statSync(path).size;
  const fd = openSync(path, 'r');
  const head = Buffer.alloc(8);
  readSync(fd, head, 0, 8, 0);
  const n = Number(head.readBigUInt64LE());
  if (n + 8 > size) throw badFile(file, 'header longer than the file');
  const text = Buffer.alloc(n);
  readSync(fd, text, 0, n, 8);
  closeSync(fd);
  const json = JSON.parse(text.toString('utf8'));
  const tensors = new Map<string, TensorEntry>();
  for (const [name, e] of Object.entries(json) as [string, any][]) {
    if (name === '__metadata__') continue;
    tensors.set(name, {
      name,
      dtype: codes[e.dtype],
      shape: e.shape,
      offset: 8 + n + e.data_offsets[0],
      length: e.data_offsets[1] - e.data_offsets[0],
    });
  }
  return {
    path,
    size,
    metadata: json.__metadata__ ?? {},
    tensors,
    read(name) {
      const t = tensors.get(name)!;
      const bytes = new Uint8Array(t.length);
      const h = openSync(path, 'r');
      readSync(h, bytes, 0, t.length, t.offset);
      closeSync(h);
      return fromBytes(bytes, t.dtype, t.shape);
    },
  };
}

export function writeSafetensors(
  path: string,
  tensors: Readonly<Record<string, NDArray>>,
  metadata: Readonly<Record<string, string>> = {},
): void {
  const header: Record<string, unknown> = { __metadata__: metadata };
  const order = Object.keys(tensors).sort(
    (a, b) => itemSize[tensors[b].dtype] - itemSize[tensors[a].dtype] || (a < b ? -1 : 1),
  );
  let at = 0;
  for (const name of order) {
    const { dtype, shape } = tensors[name];
    const length = bytesOf(tensors[name]).length;
    header[name] = { dtype: names[dtype], shape, data_offsets: [at, at + length] };
    at += length;
  }
  let text = JSON.stringify(header);
  while (Buffer.byteLength(text) % 8) text += ' ';
  const head = Buffer.alloc(8);
  head.writeBigUInt64LE(BigInt(Buffer.byteLength(text)));
  const temp = `${path}.tmp`;
  const fd = openSync(temp, 'w');
  try {
    writeSync(fd, head);
    writeSync(fd, text);
    for (const name of order) writeSync(fd, bytesOf(tensors[name]));
    fsyncSync(fd);
    closeSync(fd);
    renameSync(temp, path);
  } catch (e) {
    rmSync(temp, { force: true });
    throw e;
  }
}
