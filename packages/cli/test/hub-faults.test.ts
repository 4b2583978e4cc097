/** Downloads from a hub that cuts, lies and refuses. */

import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';

import { repoFolders } from '@attune/core';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';

import {
  blobsOf,
  commit,
  failure,
  freshCache,
  get,
  large,
  model,
  noise,
  rng,
  stub,
  unet,
} from './hub-scene.ts';
import { type Fault, type Seen, sha256 } from './hub-stub.ts';

beforeAll(async () => {
  await stub.start();
  stub.repos['acme/model'] = { commit, names: ['main', 'v1.0', 'refs/pr/3'], files: model };
});
beforeEach(() => stub.reset());
afterAll(() => stub.stop());

test('cut at random bytes: every try goes on where the last one stopped', async () => {
  let sent = 0;
  let cuts = 0;
  stub.fault = ({ host, method, before }): Fault | undefined => {
    if (host !== 'cdn' || method !== 'GET' || before >= 12) return undefined;
    cuts++;
    const cut = rng.int(40_000);
    sent += cut;
    return { cut };
  };
  const { files } = await get(`hf:acme/model:${unet}`);
  expect(readFileSync(files[0].path).equals(model[unet].bytes)).toBe(true);
  expect(cuts).toBeGreaterThan(5);
  const froms = stub.gets(unet).flatMap(({ host, range }) => (host === 'cdn' ? [range] : []));
  const starts = froms.map((range) => Number(/\d+/.exec(range ?? '0')![0]));
  // Never back: what came is never asked for again.
  expect(starts).toEqual(starts.toSorted((a, b) => a - b));
  expect(starts.at(-1)).toBeGreaterThan(0);
  expect(starts.at(-1)).toBeLessThanOrEqual(sent);
});

test('what an earlier run left is resumed; where it is wrong, all of it is fetched again', async () => {
  const { bytes } = model[unet];
  const hash = sha256(bytes);
  for (const [left, notice, range] of [
    [bytes.subarray(0, 123_456), 0, 'bytes=123456-'],
    [noise(123_456), 1, 'bytes=123456-'],
    [Buffer.concat([bytes, noise(5)]), 0, undefined],
    [bytes, 0, 'none'],
  ] as const) {
    stub.reset();
    const cache = freshCache();
    mkdirSync(blobsOf(cache), { recursive: true });
    writeFileSync(join(blobsOf(cache), `${hash}.incomplete`), left);
    const notices: string[] = [];
    const { files } = await get(`hf:acme/model:${unet}`, cache, { notices });
    expect(readFileSync(files[0].path).equals(bytes)).toBe(true);
    expect(readdirSync(blobsOf(cache))).toEqual([hash]);
    expect(notices).toHaveLength(notice);
    const [first] = stub.gets(unet);
    expect(first ? first.range : 'none').toBe(range);
  }
});

test('a server that ignores ranges, and cuts, ends in the right bytes or in an error, never in a loop', async () => {
  stub.fault = ({ host, method, before }) =>
    host === 'cdn' && method === 'GET'
      ? { ignoreRange: true, ...(before < 3 ? { cut: 100_000 - 20_000 * before } : {}) }
      : undefined;
  const { files } = await get(`hf:acme/model:${unet}`);
  expect(readFileSync(files[0].path).equals(model[unet].bytes)).toBe(true);
  stub.fault = ({ host }) => (host === 'cdn' ? { ignoreRange: true, cut: 50_000 } : undefined);
  const cache = freshCache();
  const { code, message } = await failure(get(`hf:acme/model:${unet}`, cache));
  expect([code, message]).toEqual(['NETWORK', expect.stringMatching(/failed 4 times in a row/)]);
  expect(readdirSync(blobsOf(cache))).toEqual([`${sha256(model[unet].bytes)}.incomplete`]);
});

test('busy servers and dead addresses are asked again, with the hub’s own address each time', async () => {
  stub.fault = ({ host, method, before }) => {
    if (host === 'hub' && method === 'HEAD' && before === 0) return { status: 503 };
    if (host === 'hub' && method === 'GET' && before < 2) return { status: before ? 500 : 429 };
    if (host === 'cdn' && before === 0) return { status: 403 }; // the address ran out
    if (host === 'cdn' && before === 1) return { cut: 1000, chunked: true };
    return undefined;
  };
  const { files } = await get(`hf:acme/model:${unet}`);
  expect(readFileSync(files[0].path).equals(model[unet].bytes)).toBe(true);
  stub.fault = () => ({ status: 502 });
  expect((await failure(get('hf:acme/model'))).message).toMatch(/answers 502/);
});

test.each<readonly [string, (seen: Seen) => Fault | undefined, RegExp]>([
  [
    'other bytes of the same length',
    ({ host }) => (host === 'cdn' ? { body: Buffer.alloc(300_000, 7) } : undefined),
    /has the hash .*, not .* twice over/,
  ],
  [
    'a longer file',
    ({ host }) => (host === 'cdn' ? { body: Buffer.alloc(300_001) } : undefined),
    /sends 300001 bytes .* says 300000/,
  ],
  [
    'a longer file without its length',
    ({ host }) => (host === 'cdn' ? { body: Buffer.alloc(400_000), chunked: true } : undefined),
    /sends more bytes of .* says 300000/,
  ],
  [
    'a shorter file',
    ({ host }) => (host === 'cdn' ? { body: Buffer.alloc(10) } : undefined),
    /sends 10 bytes .* says 300000/,
  ],
  [
    'headers with another size than the list',
    ({ method }) => (method === 'HEAD' ? { headers: { 'x-linked-size': '5' } } : undefined),
    /300000 bytes by the list and 5 by its headers/,
  ],
  [
    'headers with another hash than the list',
    ({ method }) =>
      method === 'HEAD' ? { headers: { 'x-linked-etag': `"${'a'.repeat(64)}"` } } : undefined,
    /by the list and a{64} by its headers/,
  ],
  [
    'headers of another commit',
    ({ method }) =>
      method === 'HEAD' ? { headers: { 'x-repo-commit': 'b'.repeat(40) } } : undefined,
    /answers with the commit b{40}/,
  ],
])('%s: an error, and nothing of it in the cache', async (_, fault, reason) => {
  stub.fault = fault;
  const cache = freshCache();
  const { code, message } = await failure(get(`hf:acme/model:${unet}`, cache));
  expect(message).toMatch(reason);
  expect(code).toMatch(/BAD_(DOWNLOAD|LISTING)/);
  const blobs = blobsOf(cache);
  const left = existsSync(blobs) ? readdirSync(blobs) : [];
  expect(left.filter((name) => !name.endsWith('.incomplete'))).toEqual([]);
  expect(existsSync(join(cache, 'models--acme--model', 'snapshots'))).toBe(false);
  // The next honest answer is taken.
  stub.reset();
  const { files } = await get(`hf:acme/model:${unet}`, cache);
  expect(readFileSync(files[0].path).equals(model[unet].bytes)).toBe(true);
});

test('a list that lies: paths outside, another commit, sizes that cannot be, no list at all', async () => {
  const outside = freshCache();
  for (const name of [
    '../../evil',
    '/etc/evil',
    'a/../../b',
    'a\\..\\b',
    'C:/x',
    'a//b',
    'x\u0000',
    '..',
  ]) {
    stub.list = (body) => ({
      ...body,
      siblings: [{ rfilename: name, size: 3, blobId: 'a'.repeat(40) }],
    });
    const { code, message } = await failure(get('hf:acme/model', join(outside, 'cache')));
    expect([code, message]).toEqual([
      'BAD_LISTING',
      expect.stringMatching(/no path inside a repository/),
    ]);
  }
  expect(readdirSync(outside)).toEqual([]);
  const one = { rfilename: 'a.safetensors', blobId: 'a'.repeat(40) };
  for (const [list, reason] of [
    [{ sha: 'main' }, /no commit of 40/],
    [{ sha: '../'.repeat(13) + 'a' }, /no commit of 40/],
    [{ siblings: [{ ...one, size: -1 }] }, /size/],
    [{ siblings: [{ ...one, size: 1e300 }] }, /size/],
    [{ siblings: [one, one] }, /names a file twice/],
    [{ siblings: 'none' }, /siblings/],
  ] as const) {
    stub.list = (body) => ({ ...body, ...list });
    expect((await failure(get('hf:acme/model'))).message).toMatch(reason);
  }
  stub.list = () => [];
  expect((await failure(get('hf:acme/model'))).code).toBe('BAD_LISTING');
  stub.reset();
  // More than any disk holds.
  const huge = 2 ** 52;
  stub.list = (body) => ({
    ...body,
    siblings: [{ rfilename: unet, lfs: { sha256: sha256(model[unet].bytes), size: huge } }],
  });
  stub.fault = ({ method }) =>
    method === 'HEAD' ? { headers: { 'x-linked-size': String(huge) } } : undefined;
  expect(await failure(get('hf:acme/model'))).toMatchObject({ code: 'NO_SPACE' });
});

const tokens = (host: string) =>
  new Set(stub.seen.flatMap((one) => (one.host === host ? [one.token] : [])));

test('the token goes to the hub alone', async () => {
  await get(`hf:acme/model:${unet}`, freshCache(), { env: { HF_TOKEN: 'hf_secret' } });
  expect([...tokens('hub')]).toEqual(['hf_secret']);
  expect([...tokens('cdn')]).toEqual([undefined]);
  // From the file of the login, if no variable is set.
  const cache = freshCache();
  writeFileSync(join(cache, 'token'), 'hf_of_file\n');
  await get('hf:acme/model:model_index.json', cache);
  expect(stub.seen.at(-1)!.token).toBe('hf_of_file');
  // No way down from https, no other protocol, no circle.
  for (const location of [
    'file:///etc/passwd',
    'http://[',
    `${stub.endpoint}/acme/model/resolve/${commit}/${unet}`,
  ]) {
    stub.fault = ({ host }) => (host === 'hub' ? { location } : undefined);
    expect((await failure(get(`hf:acme/model:${unet}`))).code).toBe('BAD_DOWNLOAD');
  }
});

test.each([
  [
    { status: 401, code: 'RepoNotFound' },
    {},
    'NO_REPO',
    /does not exist, or it is private: check the name, or set HF_TOKEN/,
  ],
  [
    { status: 404, code: 'RepoNotFound' },
    { HF_TOKEN: 'hf_x' },
    'NO_REPO',
    /does not exist, or the account of the token from HF_TOKEN may not see it/,
  ],
  [
    { status: 401, code: 'GatedRepo' },
    {},
    'GATED',
    /is gated, and no token .* accept its conditions at http.*acme\/hidden, then set HF_TOKEN/,
  ],
  [
    { status: 403, code: 'GatedRepo' },
    { HF_TOKEN: 'hf_x' },
    'GATED',
    /the account of the token from HF_TOKEN has no access: accept/,
  ],
  [
    { status: 401, message: 'Invalid credentials in Authorization header' },
    { HF_TOKEN: 'hf_x' },
    'BAD_TOKEN',
    /refuses the token from HF_TOKEN .*settings\/tokens/,
  ],
  [
    { status: 403, message: 'Access to this resource is disabled.' },
    {},
    'FORBIDDEN',
    /Access to this resource is disabled/,
  ],
  [{ status: 418 }, {}, 'BAD_DOWNLOAD', /answers 418/],
])('refused with %o', async (refusal, env, code, reason) => {
  stub.repos['acme/hidden'] = { commit, names: ['main'], files: model, refuse: () => refusal };
  const error = await failure(get('hf:acme/hidden', freshCache(), { env: env }));
  expect([error.code, error.message]).toEqual([code, expect.stringMatching(reason)]);
  expect(error.message).not.toContain('hf_x');
  expect(stub.seen).toHaveLength(1);
});

test('revisions, files and repositories that are not there', async () => {
  const cases = [
    ['hf:acme/nothing', 'NO_REPO', /hf:acme\/nothing does not exist/],
    ['hf:acme/model@other', 'NO_REVISION', /no branch, tag or commit other/],
    [
      'hf:acme/model:unet/confg.json',
      'NO_FILE',
      /holds no unet\/confg.json; nearest: unet\/config.json/,
    ],
  ] as const;
  for (const [reference, code, reason] of cases) {
    const error = await failure(get(reference));
    expect([error.code, error.message]).toEqual([code, expect.stringMatching(reason)]);
  }
  const none = { include: ['*.zip'] };
  expect((await failure(get('hf:acme/model', freshCache(), none))).message).toMatch(/leave/);
  stub.repos['acme/pictures'] = { commit, names: ['main'], files: { 'x.png': large(9) } };
  expect((await failure(get('hf:acme/pictures'))).message).toMatch(
    /nothing that attune reads; it has x.png/,
  );
});

test('stopped in the middle, everything is kept and resumed', async () => {
  const cache = freshCache();
  const stop = new AbortController();
  stub.fault = ({ host, method }) => {
    if (host === 'cdn' && method === 'GET') setTimeout(() => stop.abort(), 60);
    return { slow: 30 };
  };
  await expect(get(`hf:acme/model:${unet}`, cache, { signal: stop.signal })).rejects.toThrow(
    /abort/i,
  );
  const left = join(blobsOf(cache), `${sha256(model[unet].bytes)}.incomplete`);
  const size = lstatSync(left).size;
  expect(size).toBeGreaterThan(0);
  expect(readdirSync(repoFolders('acme/model', cache).locks)).toEqual([]);
  stub.reset();
  await get(`hf:acme/model:${unet}`, cache);
  expect(stub.gets(unet)[0].range).toBe(`bytes=${size}-`);
});

test('a blob that lost bytes is fetched again', async () => {
  const cache = freshCache();
  const { files } = await get(`hf:acme/model:${unet}`, cache);
  writeFileSync(join(blobsOf(cache), files[0].hash), 'short');
  await get('hf:acme/model', cache);
  expect(readFileSync(files[0].path).equals(model[unet].bytes)).toBe(true);
});
