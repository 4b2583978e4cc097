/** What a hub says of a revision and of a file: commit, names, sizes, hashes. All of it is checked before use. */

import { isCommit, isInside } from '@attune/core';
import { AttuneError } from '@attune/engine';
import { z } from 'zod';

import { type HubClient, Passing, reasonOf, type Subject } from './request.ts';

export interface RemoteFile {
  readonly name: string;
  /** Bytes. */
  readonly size?: number;
  /** Hexadecimal: 64 digits of sha256, 40 of git's sha1. It also names the blob. */
  readonly hash?: string;
}

/** A file of which everything is known that its bytes are checked against. */
export type KnownFile = Required<RemoteFile>;

export interface Listing {
  /** The commit that the revision is now. */
  readonly commit: string;
  readonly files: readonly RemoteFile[];
}

const Size = z.int().nonnegative();

const Revision = z.object({
  sha: z.string().refine(isCommit, 'no commit of 40 hexadecimal digits'),
  siblings: z.array(
    z.object({
      rfilename: z.string(),
      size: Size.nullish(),
      blobId: z.string().nullish(),
      lfs: z.object({ sha256: z.string().nullish(), size: Size.nullish() }).nullish(),
    }),
  ),
});

/** Bytes of a listing; a repository of 100,000 files has less. */
const MOST = 64 * 2 ** 20;

/** The files of a revision. Throws NO_REPO, GATED, NO_REVISION, …, BAD_LISTING for an answer that cannot be. */
export async function listFiles(
  client: HubClient,
  subject: Subject,
  signal?: AbortSignal,
): Promise<Listing> {
  const { repo, revision } = subject;
  const url = `${client.settings.endpoint}/api/models/${repo}/revision/${encodeURIComponent(revision)}?blobs=true`;
  const text = await client.persist(
    async () => {
      const answer = await client.ask(url, { method: 'GET' }, subject, signal);
      return read(answer.body, signal);
    },
    `Asking for the files of hf:${repo}`,
    signal,
  );
  const wrong = (what: string) =>
    new AttuneError(
      'BAD_LISTING',
      `${new URL(url).host} gives no usable list of the files of hf:${repo}: ${what}. Is HF_ENDPOINT a hub?`,
    );
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    throw wrong('it is no JSON');
  }
  const parsed = Revision.safeParse(json);
  if (!parsed.success) throw wrong(z.prettifyError(parsed.error).replaceAll(/\s*\n\s*/g, ' '));
  const { sha: commit, siblings } = parsed.data;
  if (isCommit(revision) && commit !== revision) throw wrong(`it is of the commit ${commit}`);
  const files = siblings.map(({ rfilename: name, size, blobId, lfs }): RemoteFile => {
    if (!isInside(name))
      throw wrong(`${JSON.stringify(name)} is no path inside a repository; nothing is written`);
    const bytes = lfs?.size ?? size ?? undefined;
    const hash = hashOf(lfs ? lfs.sha256 : blobId);
    return {
      name,
      ...(bytes === undefined ? {} : { size: bytes }),
      ...(hash === undefined ? {} : { hash }),
    };
  });
  const names = new Set(files.map(({ name }) => name));
  if (names.size < files.length) throw wrong('it names a file twice');
  return { commit, files };
}

async function read(body: AsyncIterable<Buffer>, signal?: AbortSignal): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of body) {
      chunks.push(chunk);
      size += chunk.length;
      if (size > MOST)
        throw new AttuneError('BAD_LISTING', `The list of files is longer than ${MOST} bytes.`);
    }
  } catch (error) {
    signal?.throwIfAborted();
    if (AttuneError.is(error)) throw error;
    throw new Passing(`the connection was cut: ${reasonOf(error)}`);
  }
  return Buffer.concat(chunks).toString('utf8');
}

/** A hash as headers and listings give it, without its quotes; undefined for anything else. */
function hashOf(text: string | null | undefined): string | undefined {
  const plain = text?.replace(/^W\//, '').replaceAll('"', '');
  return plain !== undefined && /^([0-9a-f]{40}|[0-9a-f]{64})$/.test(plain) ? plain : undefined;
}

/** The address of a file's bytes. */
export const fileUrl = (endpoint: string, repo: string, commit: string, name: string): string =>
  `${endpoint}/${repo}/resolve/${commit}/${name.split('/').map(encodeURIComponent).join('/')}`;

/**
 * A file's hash and size by the headers of its own address, compared with the listing. Throws BAD_LISTING where
 * the two differ or neither says what the bytes must be.
 */
export async function describeFile(
  client: HubClient,
  subject: Subject,
  { name, size, hash }: RemoteFile,
  signal?: AbortSignal,
): Promise<KnownFile> {
  const { repo, revision: commit } = subject;
  const url = fileUrl(client.settings.endpoint, repo, commit, name);
  const { headers, leadsAway } = await client.persist(
    async () => {
      const answer = await client.ask(url, { method: 'HEAD' }, { ...subject, file: name }, signal);
      await answer.body.dump().catch(() => undefined);
      return answer;
    },
    `Asking for ${name}`,
    signal,
  );
  const wrong = (what: string) =>
    new AttuneError('BAD_LISTING', `hf:${repo}: ${name}: ${what}; nothing of it is written.`);
  const served = headers['x-repo-commit'];
  if (served !== undefined && served !== commit)
    throw wrong(`the hub answers with the commit ${served}, not ${commit}`);
  const encoded = (headers['content-encoding'] ?? 'identity') !== 'identity';
  const length =
    headers['x-linked-size'] ?? (leadsAway || encoded ? undefined : headers['content-length']);
  const bytes = length === undefined ? size : Number(length);
  const own = hashOf(headers['x-linked-etag'] ?? (leadsAway ? undefined : headers.etag));
  if (bytes === undefined || !Number.isSafeInteger(bytes) || bytes < 0)
    throw wrong('the hub does not say how long it is');
  if (size !== undefined && size !== bytes)
    throw wrong(`it has ${size} bytes by the list and ${bytes} by its headers`);
  const known = hash ?? own;
  if (known === undefined)
    throw wrong('the hub gives no hash that its bytes could be checked with');
  if (hash !== undefined && own !== undefined && hash !== own)
    throw wrong(`its hash is ${hash} by the list and ${own} by its headers`);
  return { name, size: bytes, hash: known };
}
