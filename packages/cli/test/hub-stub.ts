/** A hub on the loopback: the answers of the real one that a download needs, and faults on demand. */

import { createHash } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface StubFile {
  readonly bytes: Buffer;
  /** Large files live on another host, by their sha256. */
  readonly lfs: boolean;
}

export interface StubRepo {
  readonly commit: string;
  /** Branches and tags that are this commit. */
  readonly names: readonly string[];
  readonly files: Readonly<Record<string, StubFile>>;
  /** Who may not see it, and how the hub says so. */
  readonly refuse?: (token: string | undefined) => Refusal | undefined;
}

export interface Refusal {
  readonly status: number;
  readonly code?: string;
  readonly message?: string;
}

/** One request, and what a fault may look at. */
export interface Seen {
  readonly host: 'hub' | 'cdn';
  readonly method: string;
  readonly path: string;
  /** The file that it is about. */
  readonly file?: string;
  readonly range?: string;
  readonly token?: string;
  /** How often this host was asked for this file by this method before. */
  readonly before: number;
}

export interface Fault {
  readonly status?: number;
  readonly headers?: Readonly<Record<string, string>>;
  /** Destroys the connection after so many bytes of the body. */
  readonly cut?: number;
  readonly ignoreRange?: boolean;
  /** Bytes in place of the file's. */
  readonly body?: Buffer;
  /** Without a content-length. */
  readonly chunked?: boolean;
  /** Milliseconds between pieces of 64 KiB. */
  readonly slow?: number;
  readonly location?: string;
}

export const sha256 = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex');
export const gitSha1 = (bytes: Buffer): string =>
  createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex');

export const hashOf = ({ bytes, lfs }: StubFile): string => (lfs ? sha256(bytes) : gitSha1(bytes));

export class HubStub {
  readonly repos: Record<string, StubRepo> = {};
  readonly seen: Seen[] = [];
  fault: (seen: Seen) => Fault | undefined = () => undefined;
  /** Changes what the list of files says. */
  list: (body: Record<string, unknown>) => unknown = (body) => body;
  readonly #servers: Server[] = [];
  endpoint = '';
  cdn = '';

  async start(): Promise<void> {
    this.endpoint = await this.#listen('hub');
    this.cdn = await this.#listen('cdn');
  }

  stop(): void {
    for (const server of this.#servers) {
      server.close();
      server.closeAllConnections();
    }
  }

  reset(): void {
    this.seen.length = 0;
    this.fault = () => undefined;
    this.list = (body) => body;
  }

  /** Requests for a file's bytes. */
  gets(file: string): Seen[] {
    return this.seen.filter((one) => one.method === 'GET' && one.file === file);
  }

  #listen(host: 'hub' | 'cdn'): Promise<string> {
    const server = createServer((request, response) => {
      this.#answer(host, request, response).catch(() => response.destroy());
    });
    this.#servers.push(server);
    return new Promise((done) => {
      server.listen(0, '127.0.0.1', () =>
        done(`http://127.0.0.1:${(server.address() as AddressInfo).port}`),
      );
    });
  }

  async #answer(host: Seen['host'], request: IncomingMessage, response: ServerResponse) {
    const { method = 'GET', url = '/' } = request;
    const path = decodeURIComponent(url.replace(/\?.*/, ''));
    const resolve = /^\/([^/]+\/[^/]+)\/resolve\/(.+?)\/(.+)$/.exec(path);
    const file = host === 'cdn' ? this.#cdnName(path) : resolve?.[3];
    const { range, authorization } = request.headers;
    const seen: Seen = {
      host,
      method,
      path,
      ...(file === undefined ? {} : { file }),
      ...(range === undefined ? {} : { range }),
      ...(authorization === undefined ? {} : { token: authorization.replace('Bearer ', '') }),
      before: this.seen.filter((o) => o.host === host && o.file === file && o.method === method)
        .length,
    };
    this.seen.push(seen);
    const fault = this.fault(seen) ?? {};
    if (fault.status !== undefined && fault.status >= 300) {
      response.writeHead(fault.status, {
        ...fault.headers,
        ...(fault.location ? { location: fault.location } : {}),
      });
      return response.end('no');
    }
    if (host === 'cdn') {
      const found = Object.values(this.repos).flatMap(({ files }) => Object.values(files));
      const one = found.find(({ bytes }) => path === `/blob/${sha256(bytes)}`);
      return one ? send(response, one.bytes, seen, fault, {}) : refuse(response, { status: 403 });
    }
    const api = /^\/api\/models\/([^/]+\/[^/]+)\/revision\/(.+)$/.exec(path);
    const [, name, revision] = api ?? resolve ?? [];
    const repo = this.repos[name];
    const refusal = repo ? repo.refuse?.(seen.token) : { status: 401, code: 'RepoNotFound' };
    if (refusal) return refuse(response, refusal);
    if (revision !== repo.commit && !repo.names.includes(revision))
      return refuse(response, { status: 404, code: 'RevisionNotFound' });
    if (api) return send(response, this.#listing(name, repo), seen, fault, {});
    const one = repo.files[file!];
    if (!one) return refuse(response, { status: 404, code: 'EntryNotFound' });
    const headers: Record<string, string> = { 'x-repo-commit': repo.commit };
    if (!one.lfs)
      return send(response, one.bytes, seen, fault, { ...headers, etag: `"${hashOf(one)}"` });
    response.writeHead(302, {
      ...headers,
      'x-linked-etag': `"${hashOf(one)}"`,
      'x-linked-size': String(one.bytes.length),
      location: fault.location ?? `${this.cdn}/blob/${sha256(one.bytes)}`,
      ...fault.headers,
    });
    response.end();
  }

  #cdnName(path: string): string | undefined {
    for (const { files } of Object.values(this.repos))
      for (const [name, { bytes }] of Object.entries(files))
        if (path === `/blob/${sha256(bytes)}`) return name;
    return undefined;
  }

  #listing(id: string, { commit, files }: StubRepo): Buffer {
    const siblings = Object.entries(files).map(([rfilename, file]) => ({
      rfilename,
      size: file.bytes.length,
      blobId: file.lfs ? '0'.repeat(40) : hashOf(file),
      ...(file.lfs
        ? { lfs: { sha256: hashOf(file), size: file.bytes.length, pointerSize: 130 } }
        : {}),
    }));
    return Buffer.from(JSON.stringify(this.list({ id, sha: commit, private: false, siblings })));
  }
}

function refuse(response: ServerResponse, { status, code, message }: Refusal): void {
  response.writeHead(status, {
    ...(code ? { 'x-error-code': code } : {}),
    ...(message ? { 'x-error-message': message } : {}),
  });
  response.end('{"error":"no"}');
}

async function send(
  response: ServerResponse,
  bytes: Buffer,
  { method, range }: Seen,
  { body = bytes, cut, ignoreRange, chunked, slow = 0, status, headers: more }: Fault,
  headers: Readonly<Record<string, string>>,
): Promise<void> {
  const from = range === undefined || ignoreRange ? 0 : Number(/bytes=(\d+)-/.exec(range)?.[1]);
  if (from > 0 && from >= body.length) {
    response.writeHead(416, { 'content-range': `bytes */${body.length}` });
    response.end();
    return;
  }
  const rest = body.subarray(from);
  response.writeHead(status ?? (from > 0 ? 206 : 200), {
    ...headers,
    ...(from > 0 ? { 'content-range': `bytes ${from}-${body.length - 1}/${body.length}` } : {}),
    ...(chunked ? {} : { 'content-length': rest.length }),
    ...more,
  });
  if (method === 'HEAD') {
    response.end();
    return;
  }
  const end = Math.min(cut ?? rest.length, rest.length);
  for (let at = 0; at < end; at += 65_536) {
    if (response.destroyed) return;
    const piece = rest.subarray(at, Math.min(at + 65_536, end));
    await new Promise((done) => response.write(piece, done));
    if (slow > 0) await new Promise((done) => setTimeout(done, slow));
  }
  if (cut === undefined) response.end();
  else response.destroy();
}
