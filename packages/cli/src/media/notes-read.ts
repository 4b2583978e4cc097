/** The notes that attune left inside a picture or a clip (see notes.ts), read again. */

import { open, readFile, stat } from 'node:fs/promises';

import { gifComments } from './gif.ts';
import type { Notes } from './notes.ts';
import { type VideoTools, videoTools } from './peers.ts';
import { pictureFormat, videoFormat } from './sniff.ts';
import { MAX_FILE } from './source.ts';

/** Every result says by which version of attune it was made. */
const MARK = 'attune';

/**
 * What a png, jpg, webp, gif or mp4 says it was made with; undefined for every other file, whatever is
 * in it. mp4 wants the optional package mediabunny. Throws nothing.
 */
export async function readNotes(
  path: string,
  tools: VideoTools = videoTools,
): Promise<Notes | undefined> {
  try {
    // A pipe would be waited for.
    const about = await stat(path);
    if (!about.isFile()) return undefined;
    const head = await readHead(path);
    const picture = pictureFormat(head);
    if (picture && about.size > MAX_FILE) return undefined;
    if (picture === 'gif') return firstNotes(gifComments(await readFile(path)));
    if (picture) {
      const { default: sharp } = await import('sharp');
      // From a buffer: sharp keeps what it read by name even after the file changed.
      const { comments = [], exif } = await sharp(await readFile(path)).metadata();
      if (picture === 'png')
        return notesOf(Object.fromEntries(comments.map(({ keyword, text }) => [keyword, text])));
      return firstNotes(linesOf(exif?.toString('latin1') ?? ''));
    }
    return videoFormat(head) === 'mp4' ? await readMp4Notes(path, tools) : undefined;
  } catch {
    return undefined;
  }
}

async function readMp4Notes(path: string, tools: VideoTools): Promise<Notes | undefined> {
  const peers = await tools.peers();
  if (typeof peers === 'string') return undefined;
  const { Input, FilePathSource, MP4, QTFF } = peers.bunny;
  const source = new FilePathSource(path, { handleUnhandledError: () => undefined });
  const input = new Input({ source, formats: [MP4, QTFF] });
  try {
    const { comment } = await input.getMetadataTags();
    return comment === undefined ? undefined : firstNotes([comment]);
  } finally {
    input.dispose();
  }
}

async function readHead(path: string): Promise<Uint8Array> {
  const file = await open(path, 'r');
  try {
    const head = new Uint8Array(256);
    const { bytesRead } = await file.read(head, 0, head.length, 0);
    return head.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}

/** What may be the line among binary EXIF: ASCII in braces, and nothing else there begins and ends like it. */
const linesOf = (exif: string): string[] =>
  exif
    .split(/[^\x20-\x7e]+/)
    .map((run) => run.slice(Math.max(0, run.indexOf('{"')), run.lastIndexOf('}') + 1))
    .filter((line) => line.startsWith('{"'));

function firstNotes(lines: Iterable<string>): Notes | undefined {
  for (const line of lines) {
    const found = notesOf(parsed(line));
    if (found) return found;
  }
  return undefined;
}

function parsed(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

/** Texts by name, with the mark among them. */
function notesOf(value: unknown): Notes | undefined {
  const entries = Object.entries(Object(value) as Record<string, unknown>);
  const texts = entries.every((entry): entry is [string, string] => typeof entry[1] === 'string');
  return texts && entries.some(([key]) => key === MARK)
    ? (Object.fromEntries(entries) as Notes)
    : undefined;
}
