/** Files as torch.save writes them, of tensors in dicts with whatever else beside. */

import { writeFileSync } from 'node:fs';

import type { NDArray } from '@attune/engine';

import {
  archive,
  bytes,
  EMPTY,
  int,
  MARK,
  named,
  NONE,
  PERSISTENT,
  REDUCE,
  SETITEMS,
  STOP,
  text,
  tuple,
} from '../../packages/engine/test/weights/archive.ts';

/** What a training saves: tensors, counters, names, and dicts of these. */
export type Saved = NDArray | number | string | null | { readonly [key: string]: Saved };

const storages = { f32: 'FloatStorage', f16: 'HalfStorage', i64: 'LongStorage' } as const;

/** How far apart neighbours along each axis lie, in numbers. */
const strides = (shape: readonly number[]): number[] =>
  shape.map((_, i) => shape.slice(i + 1).reduce((a, b) => a * b, 1));

/** Writes `value` as torch.save does, every tensor in a storage of its own. */
export function torchSave(path: string, value: Saved): void {
  const stored: Uint8Array[] = [];
  const tensor = ({ dtype, shape, data }: NDArray): Buffer => {
    const type = storages[dtype as keyof typeof storages];
    const key = text(String(stored.length));
    stored.push(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
    const count = int(data.length);
    return bytes(
      named('torch._utils', '_rebuild_tensor_v2'),
      tuple(
        bytes(tuple(text('storage'), named('torch', type), key, text('cpu'), count), PERSISTENT),
        int(0),
        tuple(...shape.map(int)),
        tuple(...strides(shape).map(int)),
        0x89, // requires_grad: False
        bytes(named('collections', 'OrderedDict'), EMPTY, REDUCE),
      ),
      REDUCE,
    );
  };
  const pickled = (one: Saved): Buffer => {
    if (one === null) return bytes(NONE);
    if (typeof one === 'number') return int(one);
    if (typeof one === 'string') return text(one);
    if ('dtype' in one && 'data' in one) return tensor(one as NDArray);
    const items = Object.entries(one).flatMap(([key, item]) => [text(key), pickled(item)]);
    return bytes(named('collections', 'OrderedDict'), EMPTY, REDUCE, MARK, ...items, SETITEMS);
  };
  const pickle = bytes(0x80, 2, pickled(value), STOP);
  const data = stored.map((own, i) => ({ name: `archive/data/${i}`, bytes: own }));
  writeFileSync(path, archive([{ name: 'archive/data.pkl', bytes: pickle }, ...data]));
}
