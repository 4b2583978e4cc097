/** What is pulled, where it lies, and what names it. */

import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';

import { parseHubReference, pulled, repoFolders } from '@attune/core';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';

import {
  blobsOf,
  commit,
  failure,
  freshCache,
  get,
  large,
  model,
  names,
  stub,
  text,
} from './hub-scene.ts';

beforeAll(async () => {
  await stub.start();
  stub.repos['acme/model'] = { commit, names: ['main', 'v1.0', 'refs/pr/3'], files: model };
});
beforeEach(() => stub.reset());
afterAll(() => stub.stop());

test('a whole repository: what attune reads, in the layout of the shared cache', async () => {
  const cache = freshCache();
  const { path, files, ...about } = await get('hf:acme/model', cache);
  expect(about).toEqual({ repo: 'acme/model', revision: 'main', commit, offline: false });
  expect(path).toBe(join(cache, 'models--acme--model', 'snapshots', commit));
  expect(files.map(({ name }) => name).toSorted()).toEqual([
    'model_index.json',
    'scheduler/scheduler_config.json',
    'tokenizer/merges.txt',
    'tokenizer/vocab.json',
    'unet/config.json',
    'unet/diffusion_pytorch_model.safetensors',
    'vae/config.json',
    'vae/diffusion_pytorch_model.bin',
  ]);
  for (const { name, path: at, hash, fetched } of files) {
    expect(fetched).toBe(true);
    expect(readFileSync(at).equals(model[name as keyof typeof model].bytes)).toBe(true);
    expect(readlinkSync(at)).toBe(join(...name.split('/').map(() => '..'), '..', 'blobs', hash));
  }
  expect(readFileSync(join(cache, 'models--acme--model/refs/main'), 'utf8')).toBe(commit);
  expect(readdirSync(blobsOf(cache)).toSorted()).toEqual(files.map(({ hash }) => hash).toSorted());
  // The second time nothing is asked for but the list.
  stub.reset();
  const again = await get('hf:acme/model', cache);
  expect(again.files.some(({ fetched }) => fetched)).toBe(false);
  expect(stub.seen.map(({ path: asked }) => asked)).toEqual([
    '/api/models/acme/model/revision/main',
  ]);
});

test('variants, globs, one file, a folder, revisions', async () => {
  expect(names(await get('hf:acme/model', freshCache(), { variant: 'fp16' }))).toContain(
    'unet/diffusion_pytorch_model.fp16.safetensors',
  );
  const include = ['*.ckpt', '[u]net/*.json', 'safety_checker/'];
  expect(names(await get('hf:acme/model', freshCache(), { include, exclude: ['*.bin'] }))).toEqual([
    'safety_checker/config.json',
    'unet/config.json',
    'v1-5-pruned.ckpt',
  ]);
  const cache = freshCache();
  const one = await get('hf:acme/model@v1.0:v1-5-pruned.ckpt', cache);
  expect([names(one), one.path.endsWith('v1-5-pruned.ckpt')]).toEqual([['v1-5-pruned.ckpt'], true]);
  expect(readdirSync(join(cache, 'models--acme--model/refs'))).toEqual(['v1.0']);
  expect(names(await get('hf:acme/model@refs/pr/3:vae', cache))).toEqual([
    'vae/config.json',
    'vae/diffusion_pytorch_model.bin',
  ]);
  expect(existsSync(join(cache, 'models--acme--model/refs/refs/pr/3'))).toBe(true);
  // A commit needs no name, and a file of it is not asked for twice.
  await get(`hf:acme/model@${commit}:model_index.json`, cache);
  stub.reset();
  await get(`hf:acme/model@${commit}:model_index.json`, cache);
  expect(stub.seen).toEqual([]);
});

test('an adapter alone: one set of weights; checkpoints of other names, each in one format', async () => {
  const files = {
    'config.json': text('{}'),
    'diffusion_pytorch_model.fp16.safetensors': large(20),
    'diffusion_pytorch_model.bin': large(30),
    'old/diffusion_pytorch_model.safetensors': large(40),
  };
  stub.repos['acme/control'] = { commit, names: ['main'], files };
  expect(names(await get('hf:acme/control'))).toEqual([
    'config.json',
    'diffusion_pytorch_model.bin',
  ]);
  expect(names(await get('hf:acme/control', freshCache(), { variant: 'fp16' }))).toEqual([
    'config.json',
    'diffusion_pytorch_model.fp16.safetensors',
  ]);
  const loras = [
    'a.safetensors',
    'a.bin',
    'b.ckpt',
    'c.fp16.safetensors',
    'c.safetensors',
    'x.png',
  ];
  stub.repos['acme/loras'] = {
    commit,
    names: ['main'],
    files: Object.fromEntries(loras.map((name) => [name, large(20)])),
  };
  expect(names(await get('hf:acme/loras'))).toEqual(['a.safetensors', 'b.ckpt', 'c.safetensors']);
  const sharded = [
    'unet/config.json',
    'unet/diffusion_pytorch_model-00001-of-00002.safetensors',
    'unet/diffusion_pytorch_model-00002-of-00002.safetensors',
    'unet/diffusion_pytorch_model.safetensors.index.json',
    'unet/diffusion_pytorch_model.safetensors.index.fp16.json',
    'unet/diffusion_pytorch_model.fp16-00001-of-00001.safetensors',
  ];
  stub.repos['acme/sharded'] = {
    commit,
    names: ['main'],
    files: Object.fromEntries(sharded.map((name) => [name, large(20)])),
  };
  expect(names(await get('hf:acme/sharded'))).toEqual(sharded.slice(0, 4).toSorted());
  expect(names(await get('hf:acme/sharded', freshCache(), { variant: 'fp16' }))).toEqual(
    [sharded[0], ...sharded.slice(4)].toSorted(),
  );
});

test('offline and cut off, the cache answers', async () => {
  const cache = freshCache();
  const env = { HF_HUB_OFFLINE: '1' };
  const missing = await failure(get('hf:acme/model', cache, { env }));
  expect([missing.code, stub.seen]).toEqual(['NOT_CACHED', []]);
  await get('hf:acme/model', cache);
  stub.reset();
  const { path, offline } = await get('hf:acme/model', cache, { env });
  expect([path.endsWith(commit), offline, stub.seen]).toEqual([true, true, []]);
  const notices: string[] = [];
  const dead = { HF_ENDPOINT: 'http://127.0.0.1:9' };
  expect((await get('hf:acme/model', cache, { env: dead, notices })).offline).toBe(true);
  expect(notices).toEqual([expect.stringMatching(/cannot be reached.*Taken from the cache/)]);
  expect((await failure(get('hf:acme/model', freshCache(), { env: dead }))).code).toBe('NETWORK');
});

test('references: what is none is said, and what is not pulled names its command', () => {
  expect(parseHubReference('hf:a/b@refs/pr/1:x/y z.safetensors')).toEqual({
    repo: 'a/b',
    revision: 'refs/pr/1',
    file: 'x/y z.safetensors',
  });
  for (const bad of [
    'hf:',
    'hf:a',
    'hf:a/b/c',
    'hf:a--b/c',
    'hf:../b',
    'hf:a/b@',
    'hf:a/b@../x',
    'hf:a/b@-x',
    'hf:a/b@x//y',
    'hf:a/b:',
    'hf:a/b:../c',
    'hf:a/b:/c',
    'hf:a/b:c/',
    'hf:a/b:x\\y',
    'hf:a b/c',
    'hf:a/.b',
  ])
    expect(() => parseHubReference(bad)).toThrow(/the form is hf:owner\/name/);
  const cache = freshCache();
  const before = process.env.HF_HUB_CACHE;
  process.env.HF_HUB_CACHE = cache;
  try {
    expect(pulled('./hf:x')).toBe('./hf:x');
    expect(() => pulled('hf:a/b@v2:c.bin')).toThrow(/Get it with: attune pull hf:a\/b@v2:c.bin$/);
    // A commit by which a hostile name of a branch would lead away is none.
    const { refs } = repoFolders('a/b', cache);
    mkdirSync(refs, { recursive: true });
    writeFileSync(join(refs, 'main'), '../../../..');
    expect(() => pulled('hf:a/b')).toThrow(/not in the cache/);
    expect(dirname(refs)).toBe(join(cache, 'models--a--b'));
  } finally {
    if (before === undefined) delete process.env.HF_HUB_CACHE;
    else process.env.HF_HUB_CACHE = before;
  }
});
