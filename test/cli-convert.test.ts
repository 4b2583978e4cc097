/** `attune convert` of the built command. */

import { existsSync, mkdtempSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { openSafetensors, Rng, writeSafetensors } from '@attune/engine';
import { expect, test } from 'vitest';

import { attune } from './attune.ts';

const fixtures = 'test/parity/fixtures';
const base = `${fixtures}/unet/pocket`;
const folder = mkdtempSync(join(tmpdir(), 'convert-'));

const convert = (from: string, to: string, out: string, ...more: readonly string[]) =>
  attune('convert', from, '--base', base, '--to', to, '-o', join(folder, out), ...more);

interface Report {
  readonly error: number;
  readonly effect: number;
  readonly weightError: number;
}

test('a LoRA through all dialects and back is the same', () => {
  const path = `${fixtures}/compose/pocket/look.safetensors`;
  const steps = [
    [path, 'kohya', 'look.kohya.safetensors'],
    [join(folder, 'look.kohya.safetensors'), 'peft', 'look.peft'],
    [join(folder, 'look.peft'), 'diffusers', 'look.safetensors'],
  ];
  for (const [from, to, out] of steps) {
    const { status, stdout } = convert(from, to, out, '--json');
    expect(status).toBe(0);
    const { error, effect } = JSON.parse(stdout) as Report;
    expect(error).toBeLessThan(1e-6);
    expect(effect).toBeGreaterThan(0.1);
  }
  const [first, last] = [path, join(folder, 'look.safetensors')].map((file) =>
    openSafetensors(file),
  );
  expect([...last.tensors.keys()].toSorted()).toEqual([...first.tensors.keys()].toSorted());
  for (const name of first.tensors.keys()) expect(last.read(name)).toEqual(first.read(name));
}, 60_000);

test('a LoRA of the text encoder, too', () => {
  const { status, stdout } = convert(
    `${fixtures}/compose/pocket/words.kohya.safetensors`,
    'diffusers',
    'words.safetensors',
    '--json',
  );
  expect([status, (JSON.parse(stdout) as Report).error]).toEqual([0, 0]);
});

test('what a dialect cannot say is refused, and nothing is left', () => {
  const loha = join(folder, 'loha.safetensors');
  const rng = Rng.of(2);
  const module = 'lora_unet_conv_in';
  writeSafetensors(loha, {
    [`${module}.hada_w1_a`]: rng.normals([8, 2]),
    [`${module}.hada_w1_b`]: rng.normals([2, 36]),
    [`${module}.hada_w2_a`]: rng.normals([8, 2]),
    [`${module}.hada_w2_b`]: rng.normals([2, 36]),
  });
  const before = readdirSync(folder);
  const cases = [
    [convert(loha, 'peft', 'a'), /peft has no form for the loha module at unet\.conv_in/],
    [convert(loha, 'other', 'b'), /cannot be written as other; known: kohya, diffusers, peft/],
    [convert(join(folder, 'none.safetensors'), 'kohya', 'c'), /does not exist/],
    [convert(loha, 'kohya', 'loha.safetensors'), /is the file itself/],
    [convert(`${fixtures}/compose/pocket/video`, 'kohya', 'd'), /is a video, which cannot be/],
  ] as const;
  for (const [{ status, stderr }, reason] of cases) {
    expect(status).toBe(2);
    expect(stderr).toMatch(reason);
    expect(stderr.trim().split('\n')).toHaveLength(1);
  }
  expect(readdirSync(folder)).toEqual(before);
  expect(convert(loha, 'kohya', 'loha.kohya.safetensors').status).toBe(0);
  expect(existsSync(join(folder, 'loha.kohya.safetensors'))).toBe(true);

  // A product of two matrices of rank 2 has rank 4 at most; rank 2 loses something, and says how much.
  const exact = convert(loha, 'peft', 'loha.4', '--rank', '4', '--json');
  expect(exact.status).toBe(0);
  const { error, weightError } = JSON.parse(exact.stdout) as Report;
  expect([error < 1e-5, weightError < 1e-6]).toEqual([true, true]);
  const near = convert(loha, 'peft', 'loha.2', '--rank', '2', '--json');
  expect((JSON.parse(near.stdout) as Report).weightError).toBeGreaterThan(0.01);
});
