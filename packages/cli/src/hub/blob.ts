/** One file's bytes into the cache: resumed where they were cut, checked, renamed when they are right. */

import { createHash } from 'node:crypto';
import { constants, createReadStream } from 'node:fs';
import { type FileHandle, open, rename, rm, stat, statfs } from 'node:fs/promises';
import { dirname, join } from 'node:path';

import type { RepoFolders } from '@attune/core';
import { AttuneError, makeFolder } from '@attune/engine';

import { fileUrl, type KnownFile } from './listing.ts';
import { locked } from './lock.ts';
import { type Answer, type HubClient, Passing, reasonOf, type Subject } from './request.ts';

export interface BlobRequest {
  readonly client: HubClient;
  /** Its revision is a commit. */
  readonly subject: Subject;
  readonly file: KnownFile;
  readonly folders: RepoFolders;
  readonly signal?: AbortSignal;
  /** Told where the file is: bytes of it that are there. */
  readonly onBytes?: (there: number) => void;
  readonly onNotice?: (text: string) => void;
}

/** Bytes of a blob that lies in the cache whole, or of what was fetched of one; undefined where there is none. */
export const bytesAt = (path: string): Promise<number | undefined> =>
  stat(path).then(
    (found) => (found.isFile() ? found.size : undefined),
    () => undefined,
  );

export const partial = (blob: string): string => `${blob}.incomplete`;

/**
 * Fetches a blob and returns whether it was not there before. What a cut, a full disk or a kill leaves is
 * HASH.incomplete, from which the next try goes on. Throws BAD_DOWNLOAD for bytes that are not what the hub
 * said (they are removed), NO_SPACE, WRITE_FAILED, NETWORK.
 */
export async function fetchBlob(request: BlobRequest): Promise<boolean> {
  const { file, folders, signal, onNotice } = request;
  const blob = join(folders.blobs, file.hash);
  try {
    makeFolder(folders.blobs);
    return await locked(
      join(folders.locks, `${file.hash}.attune.lock`),
      async () => {
        if ((await bytesAt(blob)) === file.size) return false;
        await fetchChecked(request, partial(blob));
        await rename(partial(blob), blob).catch(async (error: unknown) => {
          // A process that was stopped for long loses its lock; another one was done meanwhile.
          if ((await bytesAt(blob)) !== file.size) throw error;
        });
        return true;
      },
      {
        ...(signal ? { signal } : {}),
        onWait: (pid) => onNotice?.(`${file.name}: process ${pid} is at it; waiting`),
      },
    );
  } catch (error) {
    signal?.throwIfAborted();
    throw AttuneError.is(error) ? error : writeFailed(blob, error);
  }
}

function writeFailed(path: string, error: unknown): AttuneError {
  const full = ['ENOSPC', 'EDQUOT', 'EFBIG'].includes((error as NodeJS.ErrnoException).code ?? '');
  return full
    ? new AttuneError(
        'NO_SPACE',
        `The disk of ${dirname(path)} is full. What was fetched is kept: make room, or set HF_HUB_CACHE to another disk, and run the same command again.`,
      )
    : new AttuneError('WRITE_FAILED', `${path} could not be written: ${reasonOf(error)}.`);
}

/** Fills the file and checks it; what does not have its hash is fetched once more from its first byte. */
async function fetchChecked(request: BlobRequest, path: string): Promise<void> {
  const { file, signal, onNotice, subject } = request;
  for (let whole = 0; ; whole++) {
    await fill(request, path);
    const actual = await hashFile(path, file, signal);
    if (actual === file.hash) return;
    await rm(path, { force: true });
    if (whole > 0)
      throw new AttuneError(
        'BAD_DOWNLOAD',
        `hf:${subject.repo}: ${file.name} has the hash ${actual}, not ${file.hash} as the hub says, twice over. It is not kept: what serves it, or a proxy between, changes it.`,
      );
    onNotice?.(`${file.name}: wrong hash, fetched once more`);
  }
}

/** Fetches until the file has its length. */
async function fill(request: BlobRequest, path: string): Promise<void> {
  const { client, file, signal, onBytes } = request;
  const handle = await open(path, constants.O_RDWR | constants.O_CREAT, 0o666);
  try {
    let there = (await handle.stat()).size;
    if (there > file.size) await handle.truncate((there = 0));
    onBytes?.(there);
    let best = there;
    await client.persist(
      async (progressed) => {
        if (there === file.size) return;
        const answer = await askFor(request, there);
        if (answer.status !== 206 && there > 0) await handle.truncate((there = 0));
        for await (const chunk of chunksOf(answer, signal)) {
          if (there + chunk.length > file.size) throw wrongSize(request, 'more', file.size);
          await writeAll(handle, chunk, there);
          there += chunk.length;
          onBytes?.(there);
          // Where a server always starts anew, only what is further than ever counts as getting on.
          if (there > best) progressed();
          best = Math.max(best, there);
        }
        if (there < file.size) throw new Passing(`it ended after ${there} of ${file.size} bytes`);
      },
      `Fetching ${file.name}`,
      signal,
    );
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Asks for the bytes from `from` on, and refuses an answer of another length before a byte is written. */
async function askFor(request: BlobRequest, from: number): Promise<Answer> {
  const { client, subject, file, signal } = request;
  const url = fileUrl(client.settings.endpoint, subject.repo, subject.revision, file.name);
  const answer = await client.ask(
    url,
    { method: 'GET', away: true, ...(from > 0 ? { range: `bytes=${from}-` } : {}) },
    { ...subject, file: file.name },
    signal,
  );
  const { status, headers, body } = answer;
  const refuse = async (error: Error): Promise<never> => {
    body.on('error', () => undefined).destroy();
    throw error;
  };
  if (status === 416 && from > 0) {
    // It has less than is there already: all of it again.
    await body.dump().catch(() => undefined);
    return askFor(request, 0);
  }
  const part = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(headers['content-range'] ?? '');
  if (status === 206 && (from === 0 || !part || Number(part[1]) !== from))
    return refuse(new Passing('it answers with another part than was asked for'));
  if (status === 206 && part && part[3] !== '*' && Number(part[3]) !== file.size)
    return refuse(wrongSize(request, part[3], file.size));
  if (status !== 200 && status !== 206)
    return refuse(new Passing(`it answers ${status} where a file should come`));
  if ((headers['content-encoding'] ?? 'identity') !== 'identity')
    return refuse(new Passing('it sends the file packed, which was not asked for'));
  const length = headers['content-length'];
  const rest = file.size - (status === 206 ? from : 0);
  if (length !== undefined && Number(length) !== rest)
    return refuse(wrongSize(request, length, rest));
  return answer;
}

const wrongSize = ({ subject, file }: BlobRequest, sent: string, expected: number): AttuneError =>
  new AttuneError(
    'BAD_DOWNLOAD',
    `hf:${subject.repo}: the server sends ${sent} bytes of ${file.name} where the hub says ${expected}; they are not taken.`,
  );

async function* chunksOf({ body }: Answer, signal?: AbortSignal): AsyncGenerator<Buffer> {
  const chunks = (body as AsyncIterable<Buffer>)[Symbol.asyncIterator]();
  try {
    for (;;) {
      let next: IteratorResult<Buffer>;
      try {
        next = await chunks.next();
      } catch (error) {
        signal?.throwIfAborted();
        throw new Passing(`the connection was cut: ${reasonOf(error)}`);
      }
      if (next.done) return;
      yield next.value;
    }
  } finally {
    body.on('error', () => undefined).destroy();
  }
}

async function writeAll(handle: FileHandle, chunk: Buffer, at: number): Promise<void> {
  for (let done = 0; done < chunk.length;) {
    const { bytesWritten } = await handle.write(chunk, done, chunk.length - done, at + done);
    done += bytesWritten;
  }
}

/** Throws NO_SPACE where the disk says that it cannot take so many bytes. */
export async function assertSpace(folder: string, bytes: number): Promise<void> {
  const disk = await statfs(folder).catch(() => undefined);
  if (!disk || disk.blocks === 0) return; // a file system that does not say
  const free = disk.bavail * disk.bsize;
  if (bytes > free)
    throw new AttuneError(
      'NO_SPACE',
      `${megabytes(bytes)} are to come, and ${folder} has room for ${megabytes(free)}: make room, or set HF_HUB_CACHE to another disk.`,
      { bytes, free },
    );
}

export const megabytes = (bytes: number): string =>
  bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;

/** The hash of a file as its blob's name wants it: sha256, or sha1 of git's header and the bytes. */
export async function hashFile(
  path: string,
  { hash, size }: Pick<KnownFile, 'hash' | 'size'>,
  signal?: AbortSignal,
): Promise<string> {
  const sum = createHash(hash.length === 64 ? 'sha256' : 'sha1');
  if (hash.length === 40) sum.update(`blob ${size}\0`);
  const stream = createReadStream(path, { highWaterMark: 2 ** 20, ...(signal ? { signal } : {}) });
  for await (const chunk of stream as AsyncIterable<Buffer>) sum.update(chunk);
  return sum.digest('hex');
}
