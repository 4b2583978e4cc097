/** Strengths of a stack file: their masks are read. */

import { AttuneError, type F32Array, toF32, Weights } from '@attune/engine';

import {
  isModulation,
  type Modulation,
  type Strength,
  type StrengthValue,
} from '../adapters/strength.ts';
import type { StrengthEntry, StrengthValueEntry } from './schema.ts';

/** Reads a mask by its full path: [H, W] or [F, H, W] in [0, 1]. */
export type ReadMask = (path: string) => Promise<F32Array>;

/** A .safetensors file's tensor `mask`; throws BAD_MASK for other files. */
export const readTensorMask: ReadMask = async (path) => {
  if (!path.endsWith('.safetensors'))
    throw new AttuneError(
      'BAD_MASK',
      `${path}: pictures are not read here; give the mask as a .safetensors file with a tensor "mask".`,
    );
  const file = Weights.fromFile(path);
  if (!file.has('mask'))
    throw new AttuneError('BAD_MASK', `${path} has no tensor "mask" ([H, W] or [F, H, W]).`);
  return toF32(file.entry('mask').load());
};

/** A strength of a stack file as one per address: what holds everywhere is that of `default`. */
export const strengthsByAddress = (
  entry: StrengthEntry = 1,
): Readonly<Record<string, StrengthValueEntry>> =>
  typeof entry === 'number' || isModulation(entry)
    ? { default: entry as StrengthValueEntry }
    : (entry as Readonly<Record<string, StrengthValueEntry>>);

/** The strength of an entry; `find` makes a path of the file a full one. */
export async function readStrength(
  entry: StrengthEntry,
  find: (path: string) => string,
  read: ReadMask,
): Promise<Strength> {
  const value = async (own: StrengthValueEntry): Promise<StrengthValue> => {
    if (typeof own === 'number') return own;
    const { mask, ...rest } = own;
    return {
      ...(rest as Modulation),
      ...(mask === undefined ? {} : { mask: await read(find(mask)) }),
    };
  };
  if (typeof entry === 'number' || isModulation(entry)) return value(entry as StrengthValueEntry);
  const pairs = Object.entries(strengthsByAddress(entry)).map(
    async ([prefix, own]) => [prefix, await value(own)] as const,
  );
  return Object.fromEntries(await Promise.all(pairs));
}
