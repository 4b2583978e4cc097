/** Clips beside each other, enlarged and labelled, for eyes. */

import { badArgument } from '@attune/engine';

import { checkFrame, type Frame } from './frame.ts';
import { drawText, lineHeight, wrapText } from './lettering.ts';

export interface SideBySideOptions {
  /** Whole factor by which pixels are repeated; by default the one that brings the first column to about 256 rows. */
  readonly scale?: number;
  /** White space around and between the columns, in pixels of the result. */
  readonly gap?: number;
}

/** Repeats each pixel `factor` × `factor` times. */
export function enlarge(frame: Frame, factor: number): Frame {
  checkFrame('enlarge', frame);
  if (!(Number.isInteger(factor) && factor >= 1 && factor <= 64))
    throw badArgument('enlarge', `a factor of ${factor}`, 'give a whole number from 1 to 64');
  const [width, height] = [frame.width * factor, frame.height * factor];
  const data = new Uint8Array(width * height * 3);
  for (let y = 0, o = 0; y < height; y++)
    for (let x = 0; x < width; x++, o += 3) {
      const i = (Math.floor(y / factor) * frame.width + Math.floor(x / factor)) * 3;
      data[o] = frame.data[i];
      data[o + 1] = frame.data[i + 1];
      data[o + 2] = frame.data[i + 2];
    }
  return { ...frame, data, width, height };
}

/**
 * Columns of frames → one frame for each moment, columns from left to right on white, each under its
 * label (wrapped; plain ASCII). A shorter column keeps its last frame; times are those of the longest.
 * Columns may differ in size; in one column all frames have one size.
 */
export function sideBySide(
  columns: readonly (readonly Frame[])[],
  labels: readonly string[] = [],
  { scale, gap = 8 }: SideBySideOptions = {},
): Frame[] {
  const firsts = columns.map((frames, i) => {
    if (frames.length === 0)
      throw badArgument('sideBySide', `column ${i} has no frames`, 'give each at least one');
    return frames[0];
  });
  if (firsts.length === 0)
    throw badArgument('sideBySide', 'there are no columns', 'give at least one');
  if (!(Number.isInteger(gap) && gap >= 0))
    throw badArgument('sideBySide', `a gap of ${gap}`, 'give whole pixels');
  const factor = scale ?? Math.max(1, Math.round(256 / firsts[0].height));
  const widths = firsts.map((frame) => frame.width * factor);
  const dot = Math.min(...widths) >= 192 ? 2 : 1;
  const texts = widths.map((width, i) => wrapText(labels[i] ?? '', width, dot));
  const lines = Math.max(...texts.map((text) => text.length));
  const top = gap + lines * lineHeight(dot);
  const width = widths.reduce((sum, each) => sum + each + gap, gap);
  const height = top + Math.max(...firsts.map((frame) => frame.height * factor)) + gap;
  const lefts = widths.map((_, i) => widths.slice(0, i).reduce((sum, w) => sum + w + gap, gap));

  const blank = { data: new Uint8Array(width * height * 3).fill(255), width, height };
  texts.forEach((text, i) =>
    text.forEach((line, j) => drawText(blank, line, lefts[i], gap + j * lineHeight(dot), dot)),
  );
  const longest = columns.reduce((a, b) => (b.length > a.length ? b : a));
  return longest.map(({ delay }, moment) => {
    const data = blank.data.slice();
    columns.forEach((frames, i) => {
      const frame = frames[Math.min(moment, frames.length - 1)];
      checkFrame('sideBySide', frame, firsts[i]);
      paste(data, width, enlarge(frame, factor), lefts[i], top);
    });
    return { data, width, height, delay };
  });
}

function paste(onto: Uint8Array, across: number, frame: Frame, left: number, top: number): void {
  const row = frame.width * 3;
  for (let y = 0; y < frame.height; y++)
    onto.set(frame.data.subarray(y * row, (y + 1) * row), ((top + y) * across + left) * 3);
}
