/** Layouts without a config beside their tensors: what is read back is what names and shapes tell. */

import { AttuneError } from '@attune/engine';

/** Which key of a config a layout cannot say. */
export interface Telling {
  /** The dialect, for the message. */
  readonly dialect: string;
  /** Of the file that is written from. */
  readonly path: string;
  /** The keys that change what the weights do. */
  readonly keys: readonly string[];
}

/** One value for all levels, however it is spelled; null is absent. */
const plain = (value: unknown): string | undefined =>
  Array.isArray(value) && value.length > 0 && value.every((one) => one === value[0])
    ? plain(value[0])
    : JSON.stringify(value ?? undefined);

/**
 * Compares the config that weights have with the one their layout would be read with.
 *
 * @throws NOT_EXPRESSIBLE with the first key that differs
 */
export function checkTold(
  config: Readonly<Record<string, unknown>>,
  told: Readonly<Record<string, unknown>>,
  { dialect, path, keys }: Telling,
): void {
  const lost = keys.find((key) => plain(config[key]) !== plain(told[key]));
  if (lost === undefined) return;
  const [has, read] = [config, told].map((one) => plain(one[lost]) ?? 'none');
  throw new AttuneError(
    'NOT_EXPRESSIBLE',
    `${dialect} files have no config and are read with ${lost} ${read}; that of ${path} is ${has}: keep it in diffusers' layout.`,
    { key: lost },
  );
}
