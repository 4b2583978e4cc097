/** Texts over time, as a command line and a file of texts say them. */

import { type LaterTexts, parseYaml } from '@attune/core';
import { AttuneError, readText } from '@attune/engine';
import { InvalidArgumentError } from 'commander';
import { z } from 'zod';

import type { Instructions } from './routes.ts';

/** Gathers `48=make it icy`: the instruction from frame 48 on. */
export function timed(text: string, before: readonly LaterTexts[]): readonly LaterTexts[] {
  const [, frame, instruction] = /^(\d+)=(.*)$/s.exec(text) ?? [];
  if (!instruction) throw new InvalidArgumentError('give a frame and a text, as 48="make it icy"');
  return [...before, { from: Number(frame), instruction }];
}

const Texts = z
  .array(
    z.strictObject({
      at: z.int().min(0),
      instruction: z.string().optional(),
      caption: z.string().optional(),
      motion_caption: z.string().optional(),
    }),
  )
  .min(1);

/**
 * A YAML list of `at` (a frame), `instruction`, `caption` and `motion_caption`; what an entry leaves
 * out stays as it was. Throws MISSING_FILE, BAD_CONFIG or what `parseYaml` throws.
 */
const readTexts = (path: string): LaterTexts[] =>
  parseYaml(Texts, readText(path), path).map(
    ({ at: from, instruction, caption, motion_caption: motionCaption }) => ({
      from,
      ...(instruction === undefined ? {} : { instruction }),
      ...(caption === undefined ? {} : { caption }),
      ...(motionCaption === undefined ? {} : { motionCaption }),
    }),
  );

/** What to change, at first and later. */
export interface Said {
  /** Undefined where each adapter that reads one is told its own. */
  readonly instruction: string | undefined;
  readonly later: readonly LaterTexts[];
}

/** What `-i`, a file of texts and `--at` say together. Throws USAGE where nothing is said of frame 0. */
export function saidOf(
  { all, own }: Instructions,
  file: string | undefined,
  at: readonly LaterTexts[],
): Said {
  const later = [...(file === undefined ? [] : readTexts(file)), ...at];
  const instruction = all ?? later.find(({ from }) => from === 0)?.instruction;
  if (instruction !== undefined || Object.keys(own).length > 0) return { instruction, later };
  throw new AttuneError('USAGE', 'Nothing says what to change: give -i "…" (or --at 0="…").');
}
