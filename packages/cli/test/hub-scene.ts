/** A repository on a hub that runs here, and `pull` of it. */

import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { parseHubReference, repoFolders } from '@attune/core';
import { AttuneError, Rng } from '@attune/engine';

import { pull, type Pulled } from '../src/hub/pull.ts';
import { HubClient } from '../src/hub/request.ts';
import { hubSettings } from '../src/hub/settings.ts';
import { HubStub, type StubFile } from './hub-stub.ts';

export const stub = new HubStub();
export const commit = 'c0ffee'.padEnd(40, '0');
export const rng = Rng.of(5);
export const noise = (size: number): Buffer =>
  Buffer.from(Uint8Array.from({ length: size }, () => rng.int(256)));
export const text = (content: string): StubFile => ({ bytes: Buffer.from(content), lfs: false });
export const large = (size: number): StubFile => ({ bytes: noise(size), lfs: true });

export const model = {
  'README.md': text('# a model'),
  'model_index.json': text('{}'),
  'scheduler/scheduler_config.json': text('{"a": 1}'),
  'tokenizer/vocab.json': text('{"b": 2}'),
  'tokenizer/merges.txt': text('a b'),
  'unet/config.json': text('{"c": 3}'),
  'unet/diffusion_pytorch_model.safetensors': large(300_000),
  'unet/diffusion_pytorch_model.bin': large(70),
  'unet/diffusion_pytorch_model.fp16.safetensors': large(150_000),
  'vae/config.json': text('{"d": 4}'),
  'vae/diffusion_pytorch_model.bin': large(50_000),
  'safety_checker/config.json': text('{"e": 5}'),
  'safety_checker/pytorch_model.bin': large(90),
  'v1-5-pruned.ckpt': large(100),
} satisfies Record<string, StubFile>;

export const unet = 'unet/diffusion_pytorch_model.safetensors' as const;

export const freshCache = (): string => mkdtempSync(join(tmpdir(), 'hub-'));

interface Given {
  readonly env?: Readonly<Record<string, string>>;
  readonly variant?: string;
  readonly include?: readonly string[];
  readonly exclude?: readonly string[];
  readonly signal?: AbortSignal;
  readonly notices?: string[];
  readonly jobs?: number;
}

export async function get(
  reference: string,
  cache = freshCache(),
  { env = {}, notices = [], ...more }: Given = {},
): Promise<Pulled> {
  const settings = hubSettings({
    HF_ENDPOINT: stub.endpoint,
    HF_HUB_CACHE: cache,
    HF_HOME: cache,
    ...env,
  });
  const client = new HubClient(settings, { tries: 4, wait: 1 });
  try {
    return await pull({
      reference: parseHubReference(reference),
      client,
      onNotice: (notice) => notices.push(notice),
      ...more,
    });
  } finally {
    await client.close();
  }
}

export const failure = async (work: Promise<unknown>): Promise<AttuneError> => {
  const error: unknown = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!AttuneError.is(error)) throw new Error(`no AttuneError but ${String(error)}`);
  return error;
};

export const names = ({ files }: Pulled): string[] => files.map(({ name }) => name).toSorted();
export const blobsOf = (cache: string, repo = 'acme/model'): string =>
  repoFolders(repo, cache).blobs;
