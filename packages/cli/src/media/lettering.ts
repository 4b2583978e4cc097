/** A small bitmap alphabet for labels: text must look the same on machines without fonts. */

import type { Frame } from './frame.ts';

/** Cell of a glyph in dots: 5 × 8 of ink and one of space to the right. */
const ACROSS = 5;
const DOWN = 8;

/**
 * The printable ASCII characters from ! to ~, one word each: eight rows from the top, a row being
 * one digit to base 32 whose bits are the dots from the left. Drawn for attune.
 */
const glyphs = [
  '44444040 aa000000 0avava00 4fke5u40 pp248jj0 cik8lid0 44000000 24888420',
  '84222480 04lel400 044v4400 00000448 000e0000 00000040 11248gg0 ehjlphe0',
  '4c4444e0 eh1248v0 eh161he0 26aiv220 vgu11he0 68guhhe0 v1248880 ehhehhe0',
  'ehhf12c0 00400400 00400480 248g8420 00v0v000 84212480 eh124040 ehnlnge0',
  'ehhvhhh0 uhhuhhu0 ehggghe0 uhhhhhu0 vgguggv0 vgguggg0 ehgnhhf0 hhhvhhh0',
  'e44444e0 72222ic0 hikokih0 ggggggv0 hrllhhh0 hppljjh0 ehhhhhe0 uhhuggg0',
  'ehhhlid0 uhhukih0 fgge11u0 v4444440 hhhhhhe0 hhhhaa40 hhhllrh0 hha4ahh0',
  'hha44440 v1248gv0 e88888e0 gg842110 e22222e0 4ah00000 000000v0 84000000',
  '00e1fhf0 gguhhhu0 00fgggf0 11fhhhf0 00ehvge0 68u88880 00fhhf1e gguhhhh0',
  '40c444e0 2062222c ggikoki0 c44444e0 00qllll0 00uhhhh0 00ehhhe0 00uhhugg',
  '00fhhf11 00mpggg0 00fge1u0 88u88860 00hhhhf0 00hhha40 00hhlla0 00ha4ah0',
  '00hhhf1e 00v248v0 34484430 44444440 o44244o0 008l2000',
]
  .join(' ')
  .split(' ')
  .map((word) => Array.from(word, (digit) => Number.parseInt(digit, 32)));

const spelled: Readonly<Record<string, string>> = {
  '‘': "'",
  '’': "'",
  '“': '"',
  '”': '"',
  '–': '-',
  '—': '-',
  '−': '-',
  '×': 'x',
  '…': '...',
  '→': '->',
};

const toAscii = (text: string): string =>
  text
    .normalize('NFD')
    .replace(/\p{Mark}/gu, '')
    .replace(/[^\x20-\x7e]/gu, (char) => spelled[char] ?? '?');

/** The text as lines that fit `width` pixels at this size of a dot; long words are split. */
export function wrapText(text: string, width: number, dot: number): string[] {
  const room = Math.max(1, Math.floor(width / ((ACROSS + 1) * dot)));
  const lines: string[] = [];
  let line = '';
  for (const word of toAscii(text).split(/\s+/).filter(Boolean)) {
    if (line && line.length + 1 + word.length <= room) {
      line += ` ${word}`;
      continue;
    }
    if (line) lines.push(line);
    for (line = word; line.length > room; line = line.slice(room)) lines.push(line.slice(0, room));
  }
  return line ? [...lines, line] : lines;
}

/** Pixels that one line takes, the space below it included. */
export const lineHeight = (dot: number): number => (DOWN + 2) * dot;

/** Draws one line of ASCII in black, its top left corner at (left, top); what lies outside the frame is cut off. */
export function drawText(
  { data, width, height }: Pick<Frame, 'data' | 'width' | 'height'>,
  line: string,
  left: number,
  top: number,
  dot: number,
): void {
  for (const [place, char] of Array.from(line).entries()) {
    const rows = glyphs[char.charCodeAt(0) - 33] ?? [];
    for (let y = 0; y < rows.length * dot; y++)
      for (let x = 0; x < ACROSS * dot; x++) {
        if (!(rows[Math.floor(y / dot)] & (16 >> Math.floor(x / dot)))) continue;
        const column = left + place * (ACROSS + 1) * dot + x;
        const row = top + y;
        if (column < 0 || column >= width || row < 0 || row >= height) continue;
        data.fill(0, (row * width + column) * 3, (row * width + column) * 3 + 3);
      }
  }
}
