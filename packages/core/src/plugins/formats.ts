/** The files that a kind of adapter knows, as its own detector calls them: what tables of formats are made from. */

import { AttuneError, Weights, zeros } from '@attune/engine';

import type { AdapterFile, AdapterKind } from './plugin.ts';

/** One sort of file. */
export interface Format {
  /** As `detect` calls it. */
  readonly dialect: string;
  readonly algorithm: string;
  /** For people. */
  readonly about: string;
  /** Why such files are recognised but not loaded. */
  readonly refusal?: string;
}

/**
 * What a kind's detector says of each of its samples.
 *
 * @throws NOT_DETECTED for a sample that it does not know
 */
export function formatsOf(kind: AdapterKind, id: string): Format[] {
  return (kind.samples ?? []).map(({ keys, about }) => {
    const weights = Weights.fromArrays(Object.fromEntries(keys.map((key) => [key, zeros([2, 2])])));
    const file: AdapterFile = { path: 'sample', weights, metadata: {} };
    const found = kind.detect?.(file);
    if (!found)
      throw new AttuneError(
        'NOT_DETECTED',
        `${id} has a sample (${about}; first key ${keys[0]}) that its own detector does not know.`,
        { id, keys },
      );
    const { dialect, algorithm = id, chosen } = found;
    const refusal = kind.survey?.(file).refusal?.reason;
    return {
      dialect,
      algorithm,
      about: chosen === undefined ? about : `${about}; ${chosen}`,
      ...(refusal === undefined ? {} : { refusal }),
    };
  });
}
