/** The block structure of a GIF, as far as needed to see that one is cut off: decoders fill the hole silently. */

const paletteSize = (flags: number): number => (flags & 0x80 ? 3 << ((flags & 7) + 1) : 0);

/** True where the bytes end inside a block. A missing final byte is forgiven, as everywhere. */
export function unfinishedGif(bytes: Uint8Array): boolean {
  let at = 13 + paletteSize(bytes[10] ?? 0);
  while (at < bytes.length) {
    const kind = bytes[at];
    if (kind === 0x3b) return false;
    if (kind === 0x21) at += 2; // an extension: its label, then sub-blocks
    else if (kind === 0x2c) at += 11 + paletteSize(bytes[at + 9] ?? 0); // an image: its place, palette and code size, then sub-blocks
    else return false; // junk between blocks: for the decoder to judge
    while (at < bytes.length && bytes[at] > 0) at += bytes[at] + 1;
    if (at >= bytes.length) return true;
    at++;
  }
  return at > bytes.length;
}

/** The comments between a GIF's blocks, as Latin-1. */
export function* gifComments(bytes: Uint8Array): Generator<string> {
  let at = 13 + paletteSize(bytes[10] ?? 0);
  while (at < bytes.length) {
    const kind = bytes[at];
    if (kind !== 0x21 && kind !== 0x2c) return;
    const comment = kind === 0x21 && bytes[at + 1] === 0xfe;
    at += kind === 0x21 ? 2 : 11 + paletteSize(bytes[at + 9] ?? 0);
    const parts: Uint8Array[] = [];
    for (; at < bytes.length && bytes[at] > 0; at += bytes[at] + 1)
      parts.push(bytes.subarray(at + 1, at + 1 + bytes[at]));
    at++;
    if (comment) yield Buffer.concat(parts).toString('latin1');
  }
}
