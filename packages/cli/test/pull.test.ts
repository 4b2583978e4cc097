/** `attune pull` of the built command against a hub on the loopback, and `hf:` wherever a path may stand. */

import { type ChildProcess, spawn } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createServer, request } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { repoFolders } from '@attune/core';
import { Rng } from '@attune/engine';
import { afterAll, beforeAll, beforeEach, expect, test, vi } from 'vitest';

import { HubStub, sha256, type StubFile } from './hub-stub.ts';

// Most tests start several processes.
vi.setConfig({ testTimeout: 300_000 });

const bin = resolve('packages/cli/bin/attune.js');
const fixtures = resolve('test/parity/fixtures/compose/pocket');
const commit = 'beef'.padEnd(40, '1');
const stub = new HubStub();
const rng = Rng.of(9);
const big = Buffer.from(Uint8Array.from({ length: 3_000_000 }, () => rng.int(256)));
const hash = sha256(big);

/** A folder's files as a repository. */
function repoOf(folder: string): Record<string, StubFile> {
  const names = readdirSync(folder, { recursive: true, encoding: 'utf8' });
  return Object.fromEntries(
    names
      .filter((name) => statSync(join(folder, name)).isFile())
      .map((name) => [
        name,
        { bytes: readFileSync(join(folder, name)), lfs: name.endsWith('.safetensors') },
      ]),
  );
}

beforeAll(async () => {
  await stub.start();
  const add = (name: string, files: Record<string, StubFile>) => {
    stub.repos[name] = { commit, names: ['main', 'v1'], files };
  };
  add('acme/big', { 'big.safetensors': { bytes: big, lfs: true } });
  add('acme/base', repoOf(resolve('test/parity/fixtures/unet/pocket')));
  add('acme/edit', repoOf(join(fixtures, 'edit')));
  add('acme/looks', {
    'look.safetensors': { bytes: readFileSync(join(fixtures, 'look.safetensors')), lfs: true },
  });
});
beforeEach(() => stub.reset());
afterAll(() => stub.stop());

const freshCache = (): string => mkdtempSync(join(tmpdir(), 'pull-'));

interface Run {
  readonly child: ChildProcess;
  readonly done: Promise<{ status: number | null; stdout: string; stderr: string }>;
}

/** Starts a command; the hub answers from this process, so nothing may wait for it synchronously. */
function start(
  command: readonly string[],
  cache: string,
  env: Readonly<Record<string, string>> = {},
): Run {
  const child = spawn(command[0], command.slice(1), {
    env: {
      PATH: process.env.PATH,
      TMPDIR: process.env.TMPDIR,
      HOME: cache,
      HF_ENDPOINT: stub.endpoint,
      HF_HUB_CACHE: cache,
      ...env,
    },
  });
  let [stdout, stderr] = ['', ''];
  child.stdout.on('data', (text) => (stdout += text));
  child.stderr.on('data', (text) => (stderr += text));
  const done = new Promise<Awaited<Run['done']>>((end) => {
    child.on('close', (status) => {
      expect(stderr).not.toMatch(/\n\s+at |unexpected:/);
      end({ status, stdout, stderr });
    });
  });
  return { child, done };
}

const attune = (args: readonly string[], cache: string, env = {}): Run['done'] =>
  start([process.execPath, bin, ...args], cache, env).done;

const partial = (cache: string): string =>
  join(repoFolders('acme/big', cache).blobs, `${hash}.incomplete`);
const bytesThere = (cache: string): number =>
  existsSync(partial(cache)) ? statSync(partial(cache)).size : 0;

/** The hub's port. */
const target = (): number => Number(new URL(stub.endpoint).port);

/** Waits until something holds. */
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((done) => setTimeout(done, 5));
}

test('pull prints the place, --json everything, and says what was there already', async () => {
  const cache = freshCache();
  const first = await attune(['pull', 'hf:acme/base'], cache);
  expect([first.status, first.stdout]).toEqual([
    0,
    `${join(repoFolders('acme/base', cache).snapshots, commit)}\n`,
  ]);
  expect(first.stderr).toMatch(
    /^hf:acme\/base: (\d+) files, \1 of them fetched \(.* MB\), commit beef/,
  );
  const again = await attune(['pull', 'hf:acme/base@v1', '--json'], cache);
  expect(JSON.parse(again.stdout)).toMatchObject({
    repo: 'acme/base',
    revision: 'v1',
    commit,
    offline: false,
    files: expect.arrayContaining([expect.objectContaining({ fetched: false })]) as unknown,
  });
  expect(again.stderr).toBe('');
});

test('kill -9 again and again: every run goes on where the one before stopped', async () => {
  const cache = freshCache();
  stub.fault = ({ host }) => (host === 'cdn' ? { slow: 4 } : undefined);
  let kills = 0;
  for (let had = 0; kills < 4; kills++) {
    const { child, done } = start([process.execPath, bin, 'pull', 'hf:acme/big'], cache);
    const goal = had + 200_000 + rng.int(300_000);
    await until(() => bytesThere(cache) > goal);
    child.kill('SIGKILL');
    await done;
    expect(bytesThere(cache)).toBeGreaterThanOrEqual(goal);
    had = bytesThere(cache);
    expect(existsSync(repoFolders('acme/big', cache).snapshots)).toBe(false);
  }
  stub.fault = () => undefined;
  const { status, stdout } = await attune(['pull', 'hf:acme/big', '--json'], cache);
  expect(status).toBe(0);
  const starts = stub
    .gets('big.safetensors')
    .flatMap(({ host, range }) => (host === 'cdn' ? [Number(/\d+/.exec(range ?? '0')![0])] : []));
  expect(starts).toHaveLength(kills + 1);
  expect(starts.every((from, i) => i === 0 || from >= starts[i - 1] + 200_000)).toBe(true);
  const [{ path }] = (JSON.parse(stdout) as { files: { path: string }[] }).files;
  expect(readFileSync(path).equals(big)).toBe(true);
  expect(readdirSync(repoFolders('acme/big', cache).locks)).toEqual([]);
});

test('two processes pull the same: one fetches, the other waits, both are right', async () => {
  const cache = freshCache();
  stub.fault = ({ host }) => (host === 'cdn' ? { slow: 10 } : undefined);
  const runs = await Promise.all([
    attune(['pull', 'hf:acme/big', '--json'], cache),
    attune(['pull', 'hf:acme/big', '--json'], cache),
  ]);
  expect(runs.map(({ status }) => status)).toEqual([0, 0]);
  const fetched = runs.map(
    ({ stdout }) => (JSON.parse(stdout) as { files: { fetched: boolean }[] }).files[0].fetched,
  );
  expect(fetched.filter(Boolean)).toHaveLength(1);
  expect(stub.gets('big.safetensors').filter(({ host }) => host === 'cdn')).toHaveLength(1);
  expect(runs.map(({ stderr }) => stderr).join('')).toMatch(/process \d+ is at it; waiting/);
  expect(readFileSync(join(repoFolders('acme/big', cache).blobs, hash)).equals(big)).toBe(true);
});

test('Ctrl-C keeps what came and says how to go on', async () => {
  const cache = freshCache();
  stub.fault = ({ host }) => (host === 'cdn' ? { slow: 20 } : undefined);
  const { child, done } = start([process.execPath, bin, 'pull', 'hf:acme/big'], cache);
  await until(() => bytesThere(cache) > 100_000);
  child.kill('SIGINT');
  const { status, stdout, stderr } = await done;
  expect([status, stdout]).toEqual([1, '']);
  expect(stderr).toMatch(
    /^stopping; .*\nattune: stopped; 0\.\d MB are kept: run the same command to go on\n$/,
  );
  const there = bytesThere(cache);
  expect(there).toBeGreaterThan(100_000);
  stub.reset();
  expect((await attune(['pull', 'hf:acme/big'], cache)).status).toBe(0);
  expect(stub.gets('big.safetensors')[0].range).toBe(`bytes=${there}-`);
});

test('a full disk: one message, and what was fetched is kept', async () => {
  const cache = freshCache();
  // Files of at most 1 MB, as a disk that ends there; the signal that comes with it is ignored.
  const limited = ['bash', '-c', 'trap "" XFSZ; ulimit -f 1000; exec "$@"', '-'];
  const { status, stderr } = await start(
    [...limited, process.execPath, bin, 'pull', 'hf:acme/big'],
    cache,
  ).done;
  expect([status, stderr.trim().split('\n')]).toEqual([
    1,
    [expect.stringMatching(/^attune: The disk of .* is full.*run the same command again\.$/)],
  ]);
  expect(bytesThere(cache)).toBe(1_024_000);
  stub.reset();
  expect((await attune(['pull', 'hf:acme/big'], cache)).status).toBe(0);
  expect(stub.gets('big.safetensors')[0].range).toBe('bytes=1024000-');
});

test('through a proxy, and past it where NO_PROXY says so', async () => {
  const asked: string[] = [];
  const proxy = createServer((incoming, outgoing) => {
    asked.push(incoming.url ?? '');
    const { pathname, search } = new URL(incoming.url!);
    const onward = { port: target(), path: pathname + search, method: incoming.method };
    request({ ...onward, headers: incoming.headers }, (answer) => {
      outgoing.writeHead(answer.statusCode!, answer.headers);
      answer.pipe(outgoing);
    }).end();
  });
  proxy.on('connect', ({ url }, socket) => {
    asked.push(url ?? '');
    const onward = connect(target(), '127.0.0.1', () => {
      socket.write('HTTP/1.1 200 OK\r\n\r\n');
      onward.pipe(socket).pipe(onward);
    });
    onward.on('error', () => socket.destroy());
    socket.on('error', () => onward.destroy());
  });
  await new Promise<void>((done) => proxy.listen(0, '127.0.0.1', done));
  const address = `http://127.0.0.1:${(proxy.address() as AddressInfo).port}`;
  try {
    const env = { HF_ENDPOINT: 'http://hub.invalid', HTTP_PROXY: address, NO_PROXY: '127.0.0.1' };
    const { status, stderr } = await attune(['pull', 'hf:acme/big'], freshCache(), env);
    expect([status, stderr]).toEqual([0, expect.stringMatching(/1 of them fetched/)]);
    expect(asked.length).toBeGreaterThan(0);
    expect(asked.every((place) => place.includes('hub.invalid'))).toBe(true);
  } finally {
    proxy.closeAllConnections();
    proxy.close();
  }
});

test('failures end with 1 or 2 and one line', async () => {
  const cache = freshCache();
  const cases = [
    [['pull', 'hf:acme/none'], 2, /does not exist, or it is private/],
    [['pull', 'hf:nonsense'], 2, /the form is hf:owner\/name/],
    [['pull', 'hf:acme/big:../x'], 2, /no path in a repository/],
    [['inspect', 'hf:acme/big:big.safetensors'], 2, /attune pull hf:acme\/big:big.safetensors$/],
    [['compose', 'hf:acme/base', '--check'], 2, /attune pull hf:acme\/base$/],
    [['generate', 'x', '-o', join(cache, 'x.png'), '--stack', 'hf:acme/base'], 2, /attune pull/],
  ] as const;
  for (const [args, expected, reason] of cases) {
    const { status, stderr } = await attune(args, cache);
    expect([status, stderr.trim().split('\n')]).toEqual([
      expected,
      [expect.stringMatching(reason)],
    ]);
  }
  // Nothing was downloaded, nor even asked for, but the repository that pull was told to get.
  expect(stub.seen.map(({ path }) => path)).toEqual(['/api/models/acme/none/revision/main']);
  const bad = await attune(['pull', 'hf:acme/big'], cache, { HF_ENDPOINT: 'nowhere' });
  expect([bad.status, bad.stderr]).toEqual([2, expect.stringMatching(/HF_ENDPOINT is "nowhere"/)]);
  stub.fault = ({ host }) => (host === 'cdn' ? { body: Buffer.alloc(big.length) } : undefined);
  const lied = await attune(['pull', 'hf:acme/big'], cache);
  expect([lied.status, lied.stderr]).toEqual([1, expect.stringMatching(/twice over/)]);
});

test('of a part of a model that is used as the whole, what is lacking is said', async () => {
  const cache = freshCache();
  expect((await attune(['pull', 'hf:acme/base:tokenizer'], cache)).status).toBe(0);
  const { status, stderr } = await attune(['compose', 'hf:acme/base', '--check'], cache);
  expect([status, stderr]).toEqual([
    2,
    expect.stringMatching(/is no model folder.* the rest comes with: attune pull hf:acme\/base\n$/),
  ]);
});

test('hf: names a model and adapters in compose, inspect, convert and stack files', async () => {
  const cache = freshCache();
  for (const name of ['hf:acme/base', 'hf:acme/edit', 'hf:acme/looks@v1'])
    expect((await attune(['pull', name], cache)).status).toBe(0);
  stub.reset();
  const stack = join(cache, 'stack.yaml');
  const composed = await attune(
    [
      'compose',
      'hf:acme/base',
      'hf:acme/edit@1',
      'look=hf:acme/looks@v1:look.safetensors@0.5',
      '-o',
      stack,
    ],
    cache,
  );
  expect([composed.status, composed.stderr]).toEqual([0, expect.stringMatching(/wrote/)]);
  expect(readFileSync(stack, 'utf8')).toBe(`backbone: hf:acme/base
adapters:
  - use: edit
    from: hf:acme/edit
    strength: 1
  - name: look
    use: lora
    from: hf:acme/looks@v1:look.safetensors
    strength: 0.5
`);
  const runs = [
    ['compose', stack, '--check'],
    ['inspect', stack],
    ['inspect', 'hf:acme/looks@v1:look.safetensors', '--base', 'hf:acme/base'],
    ['inspect', 'hf:acme/base'],
    [
      'convert',
      'hf:acme/looks@v1:look.safetensors',
      '--base',
      'hf:acme/base',
      '--to',
      'kohya',
      '-o',
      join(cache, 'look.kohya.safetensors'),
    ],
  ];
  await Promise.all(
    runs.map(async (args) => {
      const { status, stderr } = await attune(args, cache);
      expect([status, stderr]).toEqual([0, expect.not.stringContaining('attune:')]);
    }),
  );
  // The same stack by paths gives the same verdict, but for the name.
  const local = join(cache, 'local.yaml');
  cpSync(stack, local);
  const text = readFileSync(stack, 'utf8')
    .replace('hf:acme/base', resolve('test/parity/fixtures/unet/pocket'))
    .replace('hf:acme/edit', join(fixtures, 'edit'))
    .replace('hf:acme/looks@v1:look.safetensors', join(fixtures, 'look.safetensors'));
  writeFileSync(local, text);
  const verdicts = await Promise.all(
    [stack, local].map(async (file) => {
      const { stdout } = await attune(['inspect', file, '--json'], cache);
      return { ...(JSON.parse(stdout) as object), file: '' };
    }),
  );
  expect(verdicts[0]).toEqual(verdicts[1]);
  expect(stub.seen).toEqual([]);
});
