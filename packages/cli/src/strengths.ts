/** Strengths as people say them on a command line, in the grammar of stack files. */

import {
  entryName,
  parseYaml,
  type StackFile,
  StrengthEntry,
  strengthsByAddress,
  StrengthValueEntry,
} from '@attune/core';
import { AttuneError, nearest } from '@attune/engine';
import { InvalidArgumentError } from 'commander';
import { z } from 'zod';

/** What one `--strength` says: of a whole adapter, or of it at one address alone. */
interface GivenStrength {
  readonly name: string;
  readonly address: string | undefined;
  readonly strength: StrengthEntry;
  /** As it was typed. */
  readonly text: string;
}

export type GivenStrengths = readonly GivenStrength[];

export const strengthHelp =
  'how strongly an adapter acts, in place of what the stack says: NAME=0.5, NAME.ADDRESS=0.5 at one address alone, or all that a stack file may say (NAME="{ scale: 0.8, during: [0, 0.6] }"); may be repeated';

/** Gathers `look=0.5`, `look.unet.up_blocks.1=0.4` or `look={ default: 1, unet.mid_block: { mask: left.png } }`. */
export function collectStrength(text: string, before: GivenStrengths): GivenStrengths {
  const [, name, address, value] =
    /^([A-Za-z_][\w-]*)(?:\.([^=\s]+))?=\s*(\S.*)$/s.exec(text) ?? [];
  if (!name || !value)
    throw new InvalidArgumentError(
      'give an adapter and a number, as look=0.5 or look.unet.up_blocks.1=0.4',
    );
  const schema = z.strictObject({
    strength: address === undefined ? StrengthEntry : StrengthValueEntry,
  });
  const { strength } = parseYaml(schema, `strength: ${value}`, `--strength ${text}`);
  return [...before, { name, address, strength, text }];
}

/** As a result's metadata tells it. */
export const strengthsSaid = (given: GivenStrengths): readonly string[] | undefined =>
  given.length === 0 ? undefined : given.map(({ text }) => text);

/**
 * Stacks with other strengths, said one after another, each of the adapters that a stack has; `place` makes a
 * mask's path one that holds for the stack. Throws NO_ADAPTER for a name that none of them has.
 */
export function withStrengths(
  stacks: readonly StackFile[],
  given: GivenStrengths,
  place: (mask: string) => string,
): StackFile[] {
  const names = [...new Set(stacks.flatMap(({ adapters }) => adapters.map(entryName)))];
  const unknown = given.find(({ name }) => !names.includes(name));
  if (unknown) throw noAdapter(unknown.name, names);
  return stacks.map((stack) => ({
    ...stack,
    adapters: stack.adapters.map((entry) =>
      given
        .filter(({ name }) => name === entryName(entry))
        .reduce((before, { address, strength }) => {
          const said = movedMasks(strength, place);
          if (address === undefined) return { ...before, strength: said };
          const all = { ...strengthsByAddress(before.strength), [address]: said };
          return { ...before, strength: all };
        }, entry),
    ),
  }));
}

/** A strength with the paths of its masks changed. */
export function movedMasks(
  strength: StrengthEntry,
  moved: (path: string) => string,
): StrengthEntry {
  if (typeof strength === 'number') return strength;
  return Object.fromEntries(
    Object.entries(strength).map(([key, value]: [string, StrengthEntry | string]) => [
      key,
      key === 'mask' && typeof value === 'string'
        ? moved(value)
        : typeof value === 'object' && !Array.isArray(value)
          ? movedMasks(value, moved)
          : value,
    ]),
  ) as StrengthEntry;
}

function noAdapter(name: string, names: readonly string[]): AttuneError {
  const way =
    names.length === 0
      ? 'the stack has no adapters.'
      : `the stack has ${names.join(', ')}; did you mean ${nearest(name, names, 1).join()}?`;
  return new AttuneError('NO_ADAPTER', `--strength ${name}: ${way}`, { name });
}
