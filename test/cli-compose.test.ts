/** `attune compose` of the built command: stacks written from the shell open again, bad input writes nothing. */

import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { parseYaml, StackFile } from '@attune/core';
import { describe, expect, test } from 'vitest';

import { attune } from './attune.ts';

const composed = resolve('test/parity/fixtures/compose/pocket');
const backbone = resolve('test/parity/fixtures/unet/pocket');
const fresh = () => mkdtempSync(join(tmpdir(), 'compose-'));

const stackAt = (path: string): StackFile => parseYaml(StackFile, readFileSync(path, 'utf8'), path);

test('edit + video + LoRA: kinds are found, paths follow the file, and one more is stacked on it', () => {
  const folder = fresh();
  const out = join(folder, 'stack.yaml');
  const { status, stdout } = attune(
    'compose',
    backbone,
    `${composed}/edit`,
    `${composed}/video@0.5`,
    `look=${composed}/look.safetensors@0.8`,
    '--out',
    out,
    '--json',
  );
  expect(status).toBe(0);
  const told = JSON.parse(stdout) as { adapters: { name: string; parameters: number }[] };
  expect(told.adapters.map(({ name }) => name)).toEqual(['edit', 'video', 'look']);
  expect(told.adapters.every(({ parameters }) => parameters > 0)).toBe(true);
  const { adapters } = stackAt(out);
  expect(adapters).toMatchObject([
    { use: 'edit' },
    { use: 'video', strength: 0.5 },
    { name: 'look', use: 'lora', strength: 0.8 },
  ]);
  expect(adapters.map(({ from }) => resolve(folder, from!))).toEqual([
    `${composed}/edit`,
    `${composed}/video`,
    `${composed}/look.safetensors`,
  ]);
  expect(attune('inspect', out).status).toBe(0);

  const second = join(fresh(), 'more.yaml');
  const more = attune('compose', out, `${composed}/look.kohya.safetensors`, '--out', second);
  expect(more.status).toBe(0);
  expect(stackAt(second).adapters.map(({ name, use }) => name ?? use)).toEqual([
    'edit',
    'video',
    'look',
    'lora',
  ]);
  const check = attune('compose', second, '--check');
  expect(check.status).toBe(0);
  expect(check.stdout.match(/^\w+ .* changes the output by /gm)).toHaveLength(4);
  expect(readdirSync(folder).toSorted()).toEqual(['stack.lock.json', 'stack.yaml']);
});

describe('refused with one message, nothing written', () => {
  const look = `${composed}/look.safetensors`;
  test.each([
    ['nowhere to write', [look], /--out stack\.yaml/],
    ['a missing file', ['gone.safetensors', '-o', 'OUT'], /gone\.safetensors does not exist/],
    ['a strength that is no number', [`${look}@nan`, '-o', 'OUT'], /strength nan is no finite/],
    [
      'one name twice',
      [`a=${look}`, `a=${composed}/look.kohya.safetensors`, '-o', 'OUT'],
      /Two adapters are named a/,
    ],
    ['a net as a name', [`unet=${look}`, '-o', 'OUT'], /cannot be named unet/],
    ['no adapter', [backbone, '-o', 'OUT'], /is no adapter but a/],
    ['an unknown kind', [`a:lorra=${look}`, '-o', 'OUT'], /lorra.*nearest.*lora/s],
    ['another ending', [look, '-o', 'OUT.txt'], /a stack file ends in \.yaml/],
  ])('%s', (_, args, message) => {
    const folder = fresh();
    const placed = args.map((arg) => arg.replace(/^OUT/, join(folder, 'stack.yaml')));
    const { status, stderr } = attune('compose', backbone, ...placed);
    expect([status, stderr]).toEqual([2, expect.stringMatching(message)]);
    expect(stderr.trim().split('\n')).toHaveLength(1);
    expect(readdirSync(folder)).toEqual([]);
  });

  test('a file that exists stays, until --force', () => {
    const out = join(fresh(), 'stack.yaml');
    writeFileSync(out, 'mine');
    expect(attune('compose', backbone, look, '-o', out)).toMatchObject({ status: 2 });
    expect(readFileSync(out, 'utf8')).toBe('mine');
    expect(attune('compose', backbone, look, '-o', out, '--force').status).toBe(0);
    expect(stackAt(out).adapters).toHaveLength(1);
  });

  test('two adapters on one file are a warning', () => {
    const folder = fresh();
    cpSync(look, join(folder, 'a.safetensors'));
    const out = join(folder, 'stack.yaml');
    const file = join(folder, 'a.safetensors');
    const { status, stderr } = attune('compose', backbone, file, file, '-o', out);
    expect([status, existsSync(out)]).toEqual([0, true]);
    expect(stderr).toMatch(/warning: the adapters lora and a both come from a\.safetensors/);
  });
});

test('the file of an adapter folder stands for the folder', () => {
  const folder = join(composed, 'edit');
  const file = join(
    folder,
    readdirSync(folder).find((name) => name.endsWith('.safetensors'))!,
  );
  const told = [folder, file].map((path) => {
    const { status, stdout } = attune('compose', backbone, path, '--check', '--json');
    expect(status).toBe(0);
    return JSON.parse(stdout) as object;
  });
  expect(told[1]).toEqual(told[0]);
});
