/** Tells formats by their first bytes; names are not trusted. */

import type { PictureFormat } from './picture.ts';

const ascii = (bytes: Uint8Array, from: number, to: number): string =>
  Buffer.from(bytes.subarray(from, to)).toString('latin1');

/** The picture format of the first 12 bytes, if it is one that attune reads. */
export function pictureFormat(head: Uint8Array): PictureFormat | undefined {
  if (ascii(head, 0, 8) === '\x89PNG\r\n\x1a\n') return 'png';
  if (ascii(head, 0, 3) === '\xff\xd8\xff') return 'jpeg';
  if (/^GIF8[79]a/.test(ascii(head, 0, 6))) return 'gif';
  if (ascii(head, 0, 4) === 'RIFF' && ascii(head, 8, 12) === 'WEBP') return 'webp';
  return undefined;
}

/** `mp4` for mp4 and QuickTime, `other` for containers left to ffmpeg. Wants the first 189 bytes. */
export function videoFormat(head: Uint8Array): 'mp4' | 'other' | undefined {
  const box = ascii(head, 4, 8);
  if (box === 'ftyp')
    return /^(avif|avis|hei[cxms]|hevc|hevx|mif1|msf1|jxl )/.test(ascii(head, 8, 12))
      ? undefined
      : 'mp4';
  if (/^(moov|mdat|wide|free|skip)$/.test(box)) return 'mp4';
  const start = ascii(head, 0, 4);
  const avi = start === 'RIFF' && ascii(head, 8, 12) === 'AVI ';
  const known = ['\x1a\x45\xdf\xa3', 'OggS', 'FLV\x01', '\0\0\x01\xba', '0&\xb2u', 'DKIF'];
  const transport = head[0] === 0x47 && head[188] === 0x47;
  return avi || transport || known.includes(start) ? 'other' : undefined;
}
