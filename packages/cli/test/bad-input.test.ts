/** Bad input to the built command: exit 1 or 2, one clear message, nothing half-written, never a stack trace. */

import { spawnSync } from 'node:child_process';
import { chmodSync, cpSync, existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { f32, openSafetensors, writeSafetensors } from '@attune/engine';
import { describe, expect, test, vi } from 'vitest';

import { main } from '../src/main.ts';
import {
  at,
  attune,
  backbone,
  bin,
  composed,
  edit,
  look,
  refused,
  type Run,
  stack,
  video,
} from './bad-scene.ts';

/** A checkpoint of the fixtures with some tensors changed. */
function changed(
  from: string,
  name: string,
  change: (
    key: string,
    data: Float32Array,
    shape: readonly number[],
  ) => [Float32Array, readonly number[]] | undefined,
): string {
  const file = openSafetensors(from);
  const tensors = Object.fromEntries(
    [...file.tensors.keys()].map((key) => {
      const array = file.read(key);
      const found = change(key, array.data as Float32Array, array.shape);
      return [key, found ? f32(found[0], found[1]) : array];
    }),
  );
  writeSafetensors(at(name), tensors, file.metadata);
  return at(name);
}

const generate = (file: string, out = 'out.png', ...more: readonly string[]): Run =>
  attune('generate', 'a cat', '--stack', file, '-o', at(out), '--steps', '1', ...more);

test('a reader that leaves early', () => {
  const { status, stderr } = spawnSync(
    'bash',
    ['-c', `set -o pipefail; "${process.execPath}" "${bin}" tokenize --help | true`],
    { encoding: 'utf8', timeout: 60_000 },
  );
  expect(stderr).toBe('');
  expect(status).toBe(0);
});

describe('stacks', () => {
  test.each<[string, () => string, RegExp]>([
    ['a missing file', () => stack('s.yaml', ['{ use: edit, from: nowhere }']), /nowhere/],
    [
      'a corrupt file',
      () => {
        writeFileSync(
          at('cut.safetensors'),
          readFileSync(`${composed}/look.safetensors`).subarray(0, 999),
        );
        return stack('s.yaml', [`{ use: lora, from: ${at('cut.safetensors')} }`]);
      },
      /cut\.safetensors/,
    ],
    [
      'a wrong shape',
      () => {
        const from = changed(
          `${composed}/look.safetensors`,
          'shape.safetensors',
          (key, data, shape) =>
            key.endsWith('lora_A.weight') && shape.length === 2
              ? [data.slice(0, data.length - shape[0]), [shape[0], shape[1] - 1]]
              : undefined,
        );
        return stack('s.yaml', [`{ use: lora, from: ${from} }`]);
      },
      /lora_A|shape/,
    ],
    [
      'an unknown key',
      () => stack('s.yaml', [], 'backbon: x\n'),
      /"backbon"; did you mean "backbone"/,
    ],
    [
      'an unknown option',
      () => stack('s.yaml', [`{ use: lora, rnak: 4 }`]),
      /"rnak"; did you mean "rank"/,
    ],
    [
      'two adapters of one name',
      () => stack('s.yaml', [look, look]),
      /Two adapters are named look/,
    ],
    [
      'an adapter named like a net',
      () => stack('s.yaml', [`{ name: unet, use: lora, from: ${composed}/look.safetensors }`]),
      /named unet: that is a net/,
    ],
    [
      'a strength that is no number',
      () => stack('s.yaml', [`{ use: lora, from: ${composed}/look.safetensors, strength: .nan }`]),
      /strength/,
    ],
    [
      'an infinite strength',
      () => stack('s.yaml', [`{ use: lora, from: ${composed}/look.safetensors, strength: .inf }`]),
      /strength/,
    ],
    [
      'NaN in a weight',
      () => {
        const from = changed(
          `${composed}/look.safetensors`,
          'nan.safetensors',
          (key, data, shape) =>
            key.includes('lora_A')
              ? [data.map((v, i) => (i === 3 ? Number.NaN : v)), shape]
              : undefined,
        );
        return stack('s.yaml', [`{ use: lora, from: ${from} }`]);
      },
      /nan\.safetensors|finite|NaN/,
    ],
    [
      'a backbone that is no model',
      () => {
        writeFileSync(at('s.yaml'), `backbone: ${at('empty')}\n`);
        return at('s.yaml');
      },
      /is no model folder/,
    ],
  ])('%s', (_, make, message) => {
    refused(generate(make()), 2, message);
    expect(existsSync(at('out.png'))).toBe(false);
  });

  test('two adapters on one file are a warning', () => {
    const again = look.replace('look', 'again');
    const { status, stderr } = generate(stack('s.yaml', [look, again]), 'twice.png');
    expect(status).toBe(0);
    expect(stderr).toMatch(/look and again both come from/);
  });

  test('a prompt longer than the encoder reads is cut, with the count', () => {
    const { status, stderr } = attune(
      'generate',
      'cat '.repeat(90),
      '--stack',
      stack('s.yaml', []),
      '-o',
      at('long.png'),
      '--steps',
      '1',
    );
    expect(status).toBe(0);
    expect(stderr).toMatch(/warning: .* has 9\d tokens; the text encoder reads \d+/);
  });

  test('-Infinity in a config is a number like any other where nothing reads it', () => {
    const folder = at('infinite');
    cpSync(backbone, folder, { recursive: true });
    const file = join(folder, 'scheduler', 'scheduler_config.json');
    const text = readFileSync(file, 'utf8')
      .trim()
      .replace(/\}$/, ', "lambda_min_clipped": -Infinity}');
    chmodSync(file, 0o644);
    writeFileSync(file, text);
    const { status, stderr } = attune(
      'generate',
      'a cat',
      '--stack',
      folder,
      '-o',
      at('inf.png'),
      '--steps',
      '1',
    );
    expect(stderr).not.toMatch(/Infinity/);
    expect(status).toBe(0);
  });
});

const editing = (input: string, out: string, ...more: readonly string[]): Run =>
  attune(
    'edit',
    input,
    '-i',
    'make it golden',
    '--stack',
    stack('e.yaml', input.endsWith('clip.webp') ? [edit, video] : [edit]),
    '-o',
    at(out),
    '--steps',
    '1',
    ...more,
  );

describe('pictures and clips', () => {
  test.each<[string, string, readonly string[], RegExp]>([
    ['a missing picture', 'nowhere.png', [], /nowhere\.png/],
    ['bytes that are no picture', 'text.png', [], /text\.png/],
    ['a folder without frames', 'empty', [], /empty/],
    [
      'a size the autoencoder does not divide',
      'picture.png',
      ['--size', '35x32'],
      /--size.*multiples of/,
    ],
    [
      'more frames at once than the adapter has positions for',
      'clip.webp',
      ['--window', '12', '--size', '32x32'],
      /at most 8 frames.* 12 were asked/,
    ],
    ['no frames at all', 'picture.png', ['--max-frames', '0'], /max-frames/],
    ['NaN for a scale', 'picture.png', ['--guidance', 'NaN'], /guidance/],
    ['∞ for a scale', 'picture.png', ['--guidance', 'Infinity'], /guidance/],
  ])('%s', (_, input, more, message) => {
    const before = readdirSync(at(''));
    refused(editing(at(input), 'edited.webp', ...more), 2, message);
    expect(readdirSync(at(''))).toEqual([...new Set([...before, 'e.yaml'])].toSorted());
  });

  test('the output is the input', () => {
    const bytes = readFileSync(at('picture.png'));
    refused(editing(at('picture.png'), 'picture.png'), 2, /input/);
    expect(readFileSync(at('picture.png')).equals(bytes)).toBe(true);
  });
});

test.each([
  ['--threads', '0', /give a whole number of at least 1/],
  ['--threads', '-1', /give a whole number of at least 1/],
  ['--threads', '1.5', /give a whole number of at least 1/],
  ['--device', 'foo', /Allowed choices are cpu, cuda/],
])('every command that runs a model refuses %s %s', async (option, value, message) => {
  const said = vi.spyOn(process.stderr, 'write').mockReturnValue(true);
  try {
    for (const args of [
      ['compose', 'nothing'],
      ['demo'],
      ['distill', 'nothing.yaml'],
      ['edit', 'nothing.png', '-o', 'out.png'],
      ['eval', 'nothing'],
      ['export', 'nothing', '-o', 'out'],
      ['generate', 'a cat', '-o', 'out.png'],
      ['probe', 'nothing', '--inputs', 'in.safetensors', '--out', 'out.safetensors'],
      ['report', 'nothing'],
      ['train', 'nothing.yaml'],
    ]) {
      said.mockClear();
      const status = await main([...args, option, value]);
      const stderr = said.mock.calls.map(([text]) => String(text)).join('');
      refused({ status, stdout: '', stderr }, 2, message);
    }
  } finally {
    said.mockRestore();
  }
});

test('more threads than there can be', () => {
  const message = /9999 threads; give 1 to 1024/;
  refused(attune('report', 'pocket/plain', '--threads', '9999'), 2, message);
});
