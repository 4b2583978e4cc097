/** `--allow-partial` and `allow_partial: true`: files that fit in part, and what is said of the rest. */

import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { findPlugins, openStack, PluginLoader, StackFile } from '@attune/core';
import { f32, type NDArray, openSafetensors, writeSafetensors } from '@attune/engine';
import { expect, test } from 'vitest';

import { attune } from './attune.ts';

const fixtures = resolve('test/parity/fixtures');
const base = `${fixtures}/unet/pocket`;
const folder = mkdtempSync(join(tmpdir(), 'partial-'));
const loader = new PluginLoader(findPlugins('packages/cli'));

type Tensors = Map<string, NDArray>;

/** A file's tensors, changed, in a file of their own; a folder's with its config. */
function changed(from: string, name: string, change: (tensors: Tensors) => void): string {
  const whole = !from.endsWith('.safetensors');
  const own = 'diffusion_pytorch_model.safetensors';
  const file = openSafetensors(whole ? join(from, own) : from);
  const tensors: Tensors = new Map([...file.tensors.keys()].map((key) => [key, file.read(key)]));
  change(tensors);
  const path = join(folder, name);
  if (whole) {
    mkdirSync(path);
    writeFileSync(join(path, 'config.json'), readFileSync(join(from, 'config.json')));
  }
  writeSafetensors(whole ? join(path, own) : path, tensors, file.metadata);
  return path;
}

const one = f32(Float32Array.of(1), [1]);
const gone = 'unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q';
const half = 'unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q';
const look = changed(`${fixtures}/compose/pocket/look.safetensors`, 'look.safetensors', (all) => {
  all.delete(`${half}.lora_B.weight`);
  for (const side of ['A', 'B']) {
    const key = `${gone}.lora_${side}.weight`;
    all.set(key.replace('down_blocks.1', 'down_blocks.7'), all.get(key)!);
  }
});
const zero = 'controlnet_down_blocks.0.weight';
const norm = 'down_blocks.0.resnets.0.norm1.weight';
const control = changed(`${fixtures}/compose/pocket/edit`, 'control', (all) => {
  all.delete(zero);
  all.delete(norm);
  all.set('stray.weight', one);
});

const opened = (use: string, from: string, more: object = {}, warnings?: string[]) =>
  openStack(
    StackFile.parse({ backbone: base, adapters: [{ use, from, ...more }] }),
    '.',
    loader,
    warnings ? { onWarning: (text) => warnings.push(text) } : {},
  );

test('a LoRA without the modules that fit nowhere or are broken', async () => {
  await expect(opened('lora', look)).rejects.toMatchObject({
    code: expect.stringMatching(/UNMATCHED|BROKEN/) as string,
  });
  const warnings: string[] = [];
  const model = await opened('lora', look, { allow_partial: true }, warnings);
  const wholly = await opened('lora', `${fixtures}/compose/pocket/look.safetensors`);
  const names = (from: typeof model) => [...from.weights.under('lora.').names()].toSorted();
  expect(names(model)).toEqual(names(wholly).filter((name) => !name.startsWith(half)));
  expect(warnings).toHaveLength(1);
  for (const key of [
    `${half}.lora_A.weight`,
    `${gone.replace('down_blocks.1', 'down_blocks.7')}.lora_B.weight`,
  ])
    expect(warnings[0]).toContain(key);
  expect(warnings[0]).toMatch(/^lora skips 3 tensors of its file: /);
});

test('a ControlNet with a tensor too many and two too few', async () => {
  const warnings: string[] = [];
  const { weights } = await opened('edit', control, { allow_partial: true }, warnings);
  expect(weights.has('edit.stray.weight')).toBe(false);
  const values = (name: string) => [...(weights.entry(`edit.${name}`).load().data as Float32Array)];
  expect(values(zero).every((value) => value === 0)).toBe(true);
  expect(values(norm).every((value) => value === 1)).toBe(true);
  expect(warnings).toEqual([
    expect.stringMatching(
      /^edit skips 1 tensors of its file: stray\.weight; does without 2 that its file lacks: .*norm1\.weight/,
    ),
  ]);
});

test('without permission a stack with such a file is not opened', async () => {
  await expect(opened('edit', control)).rejects.toMatchObject({ code: 'MISSING_WEIGHT' });
  const stray = changed(`${fixtures}/compose/pocket/edit`, 'stray', (all) => {
    all.set('stray.weight', one);
  });
  await expect(opened('edit', stray)).rejects.toMatchObject({ code: 'UNMATCHED_WEIGHTS' });
});

test('nothing is skipped where nobody would be told', async () => {
  const silent = opened('edit', control, { allow_partial: true });
  await expect(silent).rejects.toMatchObject({ code: 'PARTIAL' });
  await opened('edit', `${fixtures}/compose/pocket/edit`, { allow_partial: true });
});

test('what has another shape, and a file of which nothing fits, stay errors', async () => {
  const partly = { allow_partial: true };
  const shaped = changed(`${fixtures}/compose/pocket/edit`, 'shaped', (all) => {
    all.set(norm, one);
  });
  await expect(opened('edit', shaped, partly, [])).rejects.toMatchObject({ code: 'WEIGHT_SHAPE' });
  const other = changed(
    `${fixtures}/compose/pocket/look.safetensors`,
    'other.safetensors',
    (all) => {
      for (const [key, value] of Array.from(all)) {
        all.delete(key);
        all.set(key.replace('unet.', 'unet.elsewhere.'), value);
      }
    },
  );
  await expect(opened('lora', other, partly, [])).rejects.toMatchObject({
    code: 'UNMATCHED_WEIGHTS',
  });
});

test('inspect refuses such files, and with --allow-partial lists what is skipped', () => {
  for (const [path, key] of [
    [look, 'down_blocks.7'],
    [control, 'stray.weight'],
  ]) {
    expect(attune('inspect', path, '--base', base).status).toBe(2);
    const { status, stdout } = attune('inspect', path, '--base', base, '--allow-partial');
    expect(status).toBe(0);
    expect(stdout).toMatch(/: loadable\n/);
    expect(stdout).toMatch(/ {2}partial {2}skips \d/);
    expect(stdout).toContain(key);
  }
  const diverged = changed(`${fixtures}/compose/pocket/edit`, 'diverged', (all) => {
    all.set('stray.weight', f32(Float32Array.of(Number.NaN), [1]));
  });
  const { status, stderr } = attune('inspect', diverged, '--base', base, '--allow-partial');
  expect([status, /stray\.weight holds NaN/.test(stderr)]).toEqual([2, true]);
}, 240_000);

test('compose keeps the permission in the stack file, and says what it skips', () => {
  const out = join(folder, 'stack.yaml');
  expect(attune('compose', base, control, '-o', out, '--no-proof').status).toBe(2);
  const { status, stderr } = attune(
    'compose',
    base,
    control,
    '-o',
    out,
    '--no-proof',
    '--allow-partial',
  );
  expect(status).toBe(0);
  expect(stderr).toMatch(/edit skips 1 tensors of its file: stray\.weight; does without 2/);
  expect(readFileSync(out, 'utf8')).toContain('allow_partial: true');
}, 240_000);
