/** `attune convert` of the built command. */

import { existsSync, mkdtempSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { lora, readLora } from '@attune/adapter-lora';
import {
  compose,
  loadModel,
  materialize,
  type Model,
  nominalDims,
  readAdapterFile,
} from '@attune/core';
import { f32, openSafetensors, OrtRuntime, Rng, toF32, writeSafetensors } from '@attune/engine';
import { describe, expect, test } from 'vitest';

import { equality, OF_EFFECT, OF_OUTPUT } from '../packages/cli/src/probe/equality.ts';
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

/** A copy of a LoRA whose second matrices are times a number. */
function scaled(by: number, out: string): string {
  const source = openSafetensors(`${fixtures}/compose/pocket/look.safetensors`);
  const tensors = [...source.tensors.keys()].map((name) => {
    const value = source.read(name);
    if (!name.endsWith('lora_B.weight')) return [name, value] as const;
    const { data, shape } = toF32(value);
    return [
      name,
      f32(
        data.map((one) => by * one),
        shape,
      ),
    ] as const;
  });
  writeSafetensors(join(folder, out), tensors, source.metadata);
  return join(folder, out);
}

describe('how much of its effect a conversion may lose', () => {
  test('a LoRA that is hardly there is converted, and compared at a strength at which it shows', () => {
    const weak = scaled(1e-6, 'weak.safetensors');
    const { status, stdout } = convert(weak, 'kohya', 'weak.kohya.safetensors', '--json');
    const { effect, share } = JSON.parse(stdout) as Report & { share: number };
    expect([status, effect < 1e-5, share < 1e-3]).toEqual([0, true, true]);
  });

  test('one that does nothing is refused, and nothing is kept', () => {
    const none = scaled(0, 'nothing.safetensors');
    const { status, stderr } = convert(none, 'kohya', 'nothing.kohya.safetensors');
    expect([status, stderr]).toEqual([
      2,
      expect.stringMatching(/has no effect on the model's output/),
    ]);
    expect(existsSync(join(folder, 'nothing.kohya.safetensors'))).toBe(false);
  });

  test('what is lost of a weak one is seen, wholly or in part', async () => {
    const runtime = new OrtRuntime({ threads: 1 });
    const plain = await loadModel(base);
    const source = readAdapterFile(scaled(1e-6, 'weak.safetensors'));
    const made =
      (keep: (module: string) => boolean, by = 1) =>
      (strength: number) => {
        const { modules, weights } = readLora(source, plain);
        const left = new Map([...modules].filter(([module]) => keep(module)));
        const kept = weights.renamed((name) =>
          [...left.keys()].some((module) => name.startsWith(`${module}.`)) ? name : undefined,
        );
        const file = { modules: left, weights: kept };
        const adapter = lora({ ...file, name: 'it', strength: by * strength });
        return materialize(compose(plain, adapter), { dims: nominalDims });
      };
    const whole = made(() => true);
    const [one] = readLora(source, plain).modules.keys();
    const seen = (after: (strength: number) => Model) => equality(plain, whole, after, runtime);
    expect((await seen(whole)).share).toBe(0);
    const rounded = await seen(made(() => true, 1 + 1e-5));
    expect(rounded.share).toBeLessThan(OF_EFFECT);
    const cases = [() => plain, made((module) => module !== one), made(() => true, 1.002)];
    for (const after of cases) {
      const found = await seen(after);
      expect(found.acts).toBe(true);
      // The model's output alone does not show it.
      expect(found.error).toBeLessThan(OF_OUTPUT);
      expect(found.share).toBeGreaterThan(OF_EFFECT);
    }
    await runtime.release();
  }, 60_000);
});

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
    [
      convert(loha, 'other', 'b'),
      /cannot be written as other; known: kohya, diffusers, peft, animatediff/,
    ],
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
