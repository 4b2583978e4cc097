/** A weight seen in another way, without reading it: the same bytes under another shape, or some of its rows. */

import { AttuneError } from '../errors.ts';
import { itemSize } from '../runtime/array.ts';
import type { WeightEntry } from './store.ts';

const count = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);

/** The same numbers under another shape. Throws WEIGHT_SHAPE where their count differs. */
export function reshaped(entry: WeightEntry, shape: readonly number[]): WeightEntry {
  if (count(shape) !== count(entry.shape))
    throw new AttuneError(
      'WEIGHT_SHAPE',
      `The weight ${entry.name} is [${entry.shape}], which is not [${shape}] in another shape.`,
      { name: entry.name },
    );
  return { ...entry, shape, load: () => ({ ...entry.load(), shape }) };
}

/** Rows [from, to) of the first axis. Throws WEIGHT_SHAPE where there are none such. */
export function rows(entry: WeightEntry, from: number, to: number): WeightEntry {
  const [all, ...rest] = entry.shape;
  if (!(from >= 0 && from < to && to <= all))
    throw new AttuneError(
      'WEIGHT_SHAPE',
      `The weight ${entry.name} is [${entry.shape}]; it has no rows ${from} to ${to}.`,
      { name: entry.name },
    );
  const size = count(rest);
  const shape = [to - from, ...rest];
  const bytes = size * itemSize[entry.dtype];
  return {
    ...entry,
    shape,
    source: entry.source && {
      file: entry.source.file,
      offset: entry.source.offset + from * bytes,
      length: (to - from) * bytes,
    },
    load: () => {
      const whole = entry.load();
      return { ...whole, shape, data: whole.data.subarray(from * size, to * size) };
    },
  };
}
