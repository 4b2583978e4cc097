/** Texts over the frames of a clip: what is said from which frame on, and how one goes over into the next. */

import { badArgument } from '@attune/engine';

/** What an edit is told. */
export interface EditTexts {
  /** What to change, for the adapters with a text of their own. */
  readonly instruction: string;
  /** What the result shows, for the backbone; a clip's with words of motion. Default: none. */
  readonly caption?: string;
  readonly motionCaption?: string;
}

/** Texts from frame `from` on. What is not given stays; words of motion go with a new caption. */
export interface LaterTexts extends Partial<EditTexts> {
  readonly from: number;
}

/** Texts that are complete, from frame `from` to where the next begin. */
export interface Turn {
  readonly from: number;
  readonly instruction: string;
  readonly caption: string;
  readonly motionCaption: string;
}

/** The part that a turn has in each frame of a window, in [0, 1]. */
export interface TurnShare {
  readonly turn: number;
  readonly shares: readonly number[];
}

/** The texts in their order, the first from frame 0. Throws BAD_ARGUMENT for a frame that is none or named twice. */
export function turnsOf(
  { instruction, caption = '', motionCaption = caption }: EditTexts,
  later: readonly LaterTexts[] = [],
): Turn[] {
  const turns: Turn[] = [{ from: 0, instruction, caption, motionCaption }];
  const froms = new Set<number>();
  for (const next of later.toSorted((a, b) => a.from - b.from)) {
    const { from } = next;
    if (!(Number.isInteger(from) && from >= 0))
      throw badArgument('texts over time', `frame ${from}`, 'give a whole number from 0');
    if (froms.has(from))
      throw badArgument('texts over time', `frame ${from} twice`, 'give each frame once');
    froms.add(from);
    const before = turns.at(-1)!;
    const turn = {
      from,
      instruction: next.instruction ?? before.instruction,
      caption: next.caption ?? before.caption,
      motionCaption: next.motionCaption ?? next.caption ?? before.motionCaption,
    };
    if (from === 0) turns.pop();
    turns.push(turn);
  }
  return turns;
}

/**
 * Which turns take part in the frames from `start`, and how much of each frame is theirs: a turn comes
 * in over `fade` frames, so that of its frame number `from` it has 1 / (fade + 1), and all of
 * `from + fade`. The shares of a frame sum to 1.
 */
export function sharesOf(
  turns: readonly Pick<Turn, 'from'>[],
  start: number,
  count: number,
  fade: number,
): TurnShare[] {
  const come = (turn: number, frame: number): number => {
    if (turn === 0) return 1;
    if (turn === turns.length) return 0;
    return Math.min(1, Math.max(0, (frame - turns[turn].from + 1) / (fade + 1)));
  };
  return turns
    .map((_, turn) => ({
      turn,
      shares: Array.from(
        { length: count },
        (_frame, i) => come(turn, start + i) - come(turn + 1, start + i),
      ),
    }))
    .filter(({ shares }) => shares.some((share) => share > 0));
}
