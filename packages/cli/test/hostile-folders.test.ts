/**
 * Folders with hostile configs, indexes and tokenizers: whatever is in them, there is a verdict or one clear
 * error, soon and in little memory.
 */

import { execFileSync } from 'node:child_process';
import { cpSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { loadModel, type Model, Tokenizer } from '@attune/core';
import { AttuneError, Rng } from '@attune/engine';
import { beforeAll, describe, expect, test } from 'vitest';

import { copied, fixtures, judged, mutated } from './hostile-scene.ts';

let base: Model;
beforeAll(async () => {
  base = await loadModel(`${fixtures}/unet/pocket`);
});

const [model, sharded] = [`${fixtures}/unet/pocket`, `${fixtures}/unet/sd2`];
describe('folders with a file of changed values', () => {
  test.each<[file: string, from: string, count: number, fits: boolean]>([
    ['unet/config.json', model, 60, false],
    ['vae/config.json', model, 40, false],
    ['text_encoder/config.json', model, 40, false],
    ['scheduler/scheduler_config.json', model, 60, false],
    ['tokenizer/tokenizer_config.json', model, 30, false],
    ['config.json', `${fixtures}/compose/pocket/edit`, 40, true],
    ['config.json', `${fixtures}/compose/pocket/video`, 40, true],
    ['adapter_config.json', `${fixtures}/compose/pocket/look.peft`, 40, true],
    ['unet/diffusion_pytorch_model.safetensors.index.json', sharded, 40, false],
  ])(
    '%s (%#)',
    async (file, from, count, fits) => {
      const own = copied(from, `folder-${file.replaceAll('/', '-')}-${from.split('/').pop()}`);
      const path = join(own, file);
      const good = readFileSync(path, 'utf8');
      expect(await judged(own, fits ? base : undefined)).toBe('loadable');
      const rng = Rng.of(21).fork(file, from.split('/').pop()!);
      const seen = { loadable: 0, refused: 0 };
      for (let i = 0; i < count; i++) {
        writeFileSync(path, mutated(good, rng.fork(i)));
        seen[await judged(own, fits ? base : undefined)]++;
      }
      expect(seen.refused).toBeGreaterThan(0);
      expect(Object.hasOwn(Object.prototype, 'polluted')).toBe(false);
    },
    120_000,
  );

  test('a pipe or a device in the place of a config', async () => {
    const own = copied(model, 'pipe');
    for (const file of ['unet/config.json', 'scheduler/scheduler_config.json']) {
      const path = join(own, file);
      execFileSync('rm', [path]);
      execFileSync('/usr/bin/env', ['mkfifo', path]);
      expect(await judged(own)).toBe('refused');
      execFileSync('rm', [path]);
      symlinkSync('/dev/zero', path);
      expect(await judged(own)).toBe('refused');
      execFileSync('rm', [path]);
      cpSync(join(model, file), path);
    }
  });

  test('more layers than any machine could trace', async () => {
    const own = copied(model, 'layers');
    const path = join(own, 'unet/config.json');
    const config = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
    for (const change of [
      { layers_per_block: 1e9 },
      { transformer_layers_per_block: 1e9 },
      { block_out_channels: Array.from({ length: 5000 }, () => 8) },
      { block_out_channels: [] },
      { cross_attention_dim: 2 ** 52 },
    ]) {
      writeFileSync(path, JSON.stringify({ ...config, ...change }));
      expect(await judged(own)).toBe('refused');
    }
  });

  test('patterns that would be compared for ever', async () => {
    const own = copied(`${fixtures}/compose/pocket/look.peft`, 'patterns');
    const path = join(own, 'adapter_config.json');
    const config = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
    const many = Object.fromEntries(Array.from({ length: 9000 }, (_, i) => [`.*a.*b${i}`, 1]));
    for (const pattern of [many, { '(a*)*b': 1 }, { '[': 1 }]) {
      writeFileSync(path, JSON.stringify({ ...config, alpha_pattern: pattern }));
      expect(await judged(own, base)).toBe('refused');
    }
  });
});

describe('tokenizers', () => {
  test.each([
    ['files', 'vocab.json'],
    ['files', 'merges.txt'],
    ['files', 'special_tokens_map.json'],
    ['json', 'tokenizer.json'],
    ['json', 'tokenizer_config.json'],
  ])('%s/%s', async (form, file) => {
    const own = copied(`${fixtures}/tokenizer/${form}`, `tokenizer-${form}-${file}`);
    const path = join(own, file);
    const good = readFileSync(path, 'utf8');
    for (let i = 0; i < 25; i++) {
      const rng = Rng.of(22).fork(form, file, i);
      writeFileSync(path, mutated(i % 5 ? good : good.slice(0, rng.int(good.length)), rng));
      try {
        const tokenizer = await Tokenizer.load(own);
        expect(tokenizer.encode('a cat').ids.length).toBeLessThanOrEqual(1e6);
      } catch (error) {
        if (!AttuneError.is(error)) throw error;
      }
    }
  });
});
