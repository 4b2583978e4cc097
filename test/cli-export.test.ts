/** `attune export` of the built command: what it writes runs elsewhere, what it cannot keep leaves nothing. */

import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { generate, loadModel, mix, ModelRunner, Tokenizer } from '@attune/core';
import {
  f32,
  type F32Array,
  i64,
  type NDArray,
  openSafetensors,
  OrtRuntime,
  Rng,
  writeSafetensors,
} from '@attune/engine';
import { relativeError } from '@attune/engine/testing';
import { expect, test } from 'vitest';
import { stringify } from 'yaml';

import { attune } from './attune.ts';

const fixtures = resolve('test/parity/fixtures');
const cli = 'packages/cli/bin/attune.js';
const folder = mkdtempSync(join(tmpdir(), 'export-'));
const place = (name: string): string => join(folder, name);

const run = (...args: readonly string[]) => attune('export', ...args);

/** A stack of the tiny fixtures, as a file. */
function stack(name: string, ...adapters: readonly object[]): string {
  const file = place(`${name}.yaml`);
  writeFileSync(file, stringify({ backbone: `${fixtures}/unet/pocket`, adapters }));
  return file;
}

const at = (name: string): string => `${fixtures}/compose/pocket/${name}`;
const edit = { use: 'edit', from: at('edit') };
const video = {
  use: 'video',
  from: at('video'),
  strength: { default: 0.7, 'unet.mid_block': -0.3 },
};
const look = {
  name: 'look',
  use: 'lora',
  from: at('look.safetensors'),
  strength: { default: 0.8, 'unet.up_blocks.1': 0.4 },
};
const sway = { name: 'sway', use: 'lora', from: at('sway.safetensors'), strength: 0.5 };
const small = ['--height', '16', '--width', '16', '--tokens', '8', '--frames', '2'];

interface Value {
  readonly name: string;
  readonly shape: readonly number[];
  readonly about: string;
}

interface Manifest {
  readonly parts: Readonly<
    Record<
      string,
      {
        readonly file: string;
        readonly inputs: readonly Value[];
        readonly outputs: readonly Value[];
        readonly error: number;
        readonly files: readonly { readonly file: string; readonly sha256: string }[];
      }
    >
  >;
  readonly schedule: {
    readonly sampling: { readonly steps: readonly { t: number; cx: number; cp: number }[] };
  };
  readonly latents: { readonly scale: number; readonly shift: number };
  readonly tokenizer: { readonly folder: string; readonly length: number };
  readonly strengths: { readonly values: Readonly<Record<string, number>> };
  readonly origins: readonly { readonly name: string; readonly files: readonly object[] }[];
}

const manifestOf = (out: string): Manifest =>
  JSON.parse(readFileSync(join(out, 'manifest.json'), 'utf8')) as Manifest;

test('a whole stack as one model, with its ports and strengths as inputs', async () => {
  const out = place('stack');
  const file = stack('stack', edit, video, look, sway);
  const more = ['--batch', '2', '--live-strengths', '--external', '--json'];
  const { status, stdout } = run(file, '-o', out, ...small, ...more);
  expect(status).toBe(0);
  const [{ error }] = (JSON.parse(stdout) as { parts: { error: number }[] }).parts;
  expect(error).toBeLessThan(1e-5);
  expect(readdirSync(out).toSorted()).toEqual([
    'README.md',
    'check.safetensors',
    'manifest.json',
    'tokenizer',
    'unet.onnx',
    'unet.onnx.data',
  ]);
  const { parts, strengths, origins } = manifestOf(out);
  const { inputs, outputs, files } = parts.unet;
  expect(Object.fromEntries(inputs.map(({ name, shape }) => [name, shape]))).toMatchObject({
    sample: [4, 4, 4, 4],
    timestep: [1],
    'edit.image': [4, 3, 16, 16],
    'gate.look@unet.up_blocks.1': [],
    'gate.video@unet.mid_block': [],
  });
  expect(inputs.every(({ about }) => about !== '')).toBe(true);
  expect(strengths.values['gate.sway']).toBe(0.5);
  expect(origins.map(({ name, files: own }) => [name, own.length])).toEqual([
    ['backbone', 3],
    ['edit', 1],
    ['video', 1],
    ['look', 1],
    ['sway', 1],
  ]);
  for (const one of files)
    expect(
      createHash('sha256')
        .update(readFileSync(join(out, one.file)))
        .digest('hex'),
    ).toBe(one.sha256);

  // What the card calls the model's inputs is what the model asks for; one that changes its output.
  const runtime = new OrtRuntime();
  const session = await runtime.load(join(out, 'unet.onnx'));
  const known = openSafetensors(join(out, 'check.safetensors'));
  const feeds = Object.fromEntries(inputs.map(({ name }) => [name, known.read(`unet.in.${name}`)]));
  const [{ name }] = outputs;
  const first = (await session.run(feeds, [name]))[name];
  expect(relativeError(first as F32Array, known.read(`unet.out.${name}`) as F32Array)).toBeLessThan(
    1e-5,
  );
  for (const key of ['edit.image', 'gate.sway', 'gate.look@unet.up_blocks.1']) {
    const other: NDArray = {
      ...feeds[key],
      data: (feeds[key].data as Float32Array).map((x) => -x),
    };
    const changed = (await session.run({ ...feeds, [key]: other }, [name]))[name];
    expect(relativeError(changed as F32Array, first as F32Array)).toBeGreaterThan(1e-4);
  }
  await runtime.release();
}, 120_000);

test('from the manifest alone the pipeline makes what attune makes', async () => {
  const out = place('pocket');
  expect(run('pocket', '-o', out, '--part', 'all', '--batch', '2').status).toBe(0);
  const runtime = new OrtRuntime();
  const { parts, schedule, latents, tokenizer } = manifestOf(out);
  const sessions = new Map(
    await Promise.all(
      Object.entries(parts).map(
        async ([name, { file }]) => [name, await runtime.load(join(out, file))] as const,
      ),
    ),
  );
  const call = async (part: string, feeds: Readonly<Record<string, NDArray>>) => {
    const [{ name }] = parts[part].outputs;
    return (await sessions.get(part)!.run(feeds, [name]))[name] as F32Array;
  };
  const words = await Tokenizer.load(join(out, tokenizer.folder));
  const prompts = ['a dog on a beach', 'a lion in a green meadow'];
  const encoded = (texts: readonly string[]) =>
    call('text-encoder', {
      input_ids: i64(
        texts.flatMap((text) => words.encode(text).ids),
        [texts.length, tokenizer.length],
      ),
    });
  const [text, none] = [await encoded(prompts), await encoded(prompts.map(() => ''))];
  const [{ shape }] = parts.unet.inputs;
  let x: F32Array = Rng.of(5).normals([...shape]);
  for (const { t, cx, cp } of schedule.sampling.steps) {
    const predict = (encoder_hidden_states: NDArray) =>
      call('unet', { sample: x, timestep: f32([t], [1]), encoder_hidden_states });
    const guided = mix({ cx: 3, cp: -2 }, await predict(text), await predict(none));
    x = mix({ cx, cp }, x, guided);
  }
  const pixels = await call('vae-decoder', {
    latents: { ...x, data: x.data.map((value) => value / latents.scale + latents.shift) },
  });

  const runner = new ModelRunner(await loadModel('packages/pocket/models'), runtime);
  const steps = schedule.sampling.steps.length;
  const own = await generate(runner, prompts, { steps, guidance: 3, rng: Rng.of(5) });
  const pictures = await runner.decodeLatents(own.latents);
  const want = { ...pictures, data: pictures.data.map((value) => 2 * value - 1) };
  expect(relativeError(pixels, want)).toBeLessThan(1e-4);
  await runtime.release();
}, 180_000);

test.each(['kohya', 'diffusers', 'peft'])('the LoRAs of a stack as one for %s', (dialect) => {
  const out = place(`merged-${dialect}`);
  const file = stack('merging', edit, video, look, sway);
  const { status, stdout, stderr } = run(
    file,
    '-o',
    out,
    '--format',
    'merged-lora',
    '--to',
    dialect,
    '--json',
  );
  expect(status).toBe(0);
  expect(stderr).toContain('not in the file, being of other kinds: edit, video');
  const report = JSON.parse(stdout) as { file: string; error: number; effect: number };
  expect(report.error).toBeLessThan(1e-5);
  expect(report.effect).toBeGreaterThan(0.01);
  expect(readFileSync(join(out, 'README.md'), 'utf8')).toContain('| look | attune/lora |');
});

test('LoRAs too weak to be seen in the output are merged and compared all the same', () => {
  const out = place('merged-weak');
  const weak = ['--strength', 'look=1e-5', '--strength', 'sway=1e-5'];
  const file = stack('weak', edit, video, look, sway);
  const { status, stdout } = run(file, '-o', out, '--format', 'merged-lora', ...weak, '--json');
  expect(status).toBe(0);
  const { effect } = JSON.parse(stdout) as { effect: number };
  expect(effect).toBeLessThan(1e-3);
  expect(effect).toBeGreaterThan(0);
});

test('sixteen bits: the same model of rounded weights, and what the rounding does', () => {
  const out = place('half');
  const { status, stdout } = run(
    stack('half', look),
    '-o',
    out,
    ...small,
    '--weights',
    'f16',
    '--json',
  );
  expect(status).toBe(0);
  const [{ error, rounding }] = (
    JSON.parse(stdout) as { parts: { error: number; rounding: number }[] }
  ).parts;
  expect(error).toBeLessThan(1e-5);
  expect(rounding).toBeGreaterThan(1e-5);
  expect(rounding).toBeLessThan(1e-2);
});

test('what cannot be exported is refused, and nothing is left', () => {
  const file = stack('refused', edit, video, look);
  const big = place('big.safetensors');
  writeSafetensors(big, {
    'lora_unet_conv_in.lora_down.weight': f32(new Float32Array(36).fill(1e5), [1, 4, 3, 3]),
    'lora_unet_conv_in.lora_up.weight': f32(new Float32Array(8).fill(1e-5), [8, 1, 1, 1]),
  });
  const huge = stack('huge', { use: 'lora', from: big });
  mkdirSync(place('mine'));
  writeFileSync(join(place('mine'), 'diary.txt'), 'dear diary');
  const out = place('refused');
  const bare = `${fixtures}/unet/sd15`;
  const before = readdirSync(folder);
  const cases: readonly [readonly string[], RegExp][] = [
    [[file, '-o', place('mine')], /mine exists/],
    [[file, '-o', place('mine'), '--force'], /is no export, so --force does not replace it/],
    [[file, '-o', join(folder, 'no', 'where')], /there is no folder/],
    [[file, '-o', out, '--height', '17'], /does not halve|multiple/],
    [[file, '-o', out, '--frames', '4000'], /--frames.*video sees at most/],
    [[bare, '-o', out, '--part', 'vae-decoder'], /has no vae-decoder; it has unet/],
    [[file, '-o', out, '--format', 'torch'], /use onnx, or merged-<kind>/],
    [[file, '-o', out, '--to', 'kohya'], /--to belongs to/],
    [[file, '-o', out, '--format', 'merged-lora', '--live-strengths'], /--live-strengths belongs/],
    [[file, '-o', out, '--format', 'merged-lora', '--to', 'none'], /cannot be merged as none/],
    [[file, '-o', out, '--format', 'merged-video'], /cannot be merged/],
    [[file, '-o', out, '--format', 'merged-other'], /No plugin contributes adapters "other"/],
    [[bare, '-o', out, '--format', 'merged-lora'], /no adapter of the kind/],
    [[huge, '-o', out, ...small, '--weights', 'f16'], /reaches 100000; 16 bits hold/],
    [[place('none.yaml'), '-o', out], /does not exist/],
  ];
  for (const [args, reason] of cases) {
    const { status, stderr } = run(...args);
    expect([status, stderr]).toEqual([2, expect.stringMatching(reason)]);
  }
  expect(readdirSync(folder)).toEqual(before);
  expect(readdirSync(place('mine'))).toEqual(['diary.txt']);
}, 180_000);

test('--force replaces an export; one that fails leaves the old one as it was', () => {
  const out = place('again');
  const file = stack('again', look);
  expect(run(file, '-o', out, ...small).status).toBe(0);
  const old = readFileSync(join(out, 'manifest.json'), 'utf8');
  expect(run(file, '-o', out, ...small).status).toBe(2);
  expect(run(file, '-o', out, ...small, '--frames', '3', '--force').status).toBe(0);
  const next = readFileSync(join(out, 'manifest.json'), 'utf8');
  expect(next).not.toBe(old);

  // A file may not grow past 64 KiB: what a full disk does to a write.
  const limited = `trap '' XFSZ; ulimit -f 64; exec "$0" "$@"`;
  const args = ['-c', limited, process.execPath, cli, 'export', file, '-o', out, ...small];
  const before = readdirSync(folder);
  const { status, stderr } = spawnSync('bash', [...args, '--force'], { encoding: 'utf8' });
  expect([status, stderr]).toEqual([1, expect.stringMatching(/not written|could not be written/)]);
  expect(readdirSync(folder)).toEqual(before);
  expect(readFileSync(join(out, 'manifest.json'), 'utf8')).toBe(next);
}, 120_000);

test('Ctrl-C leaves nothing', async () => {
  const before = readdirSync(folder);
  const args = [cli, 'export', 'pocket', '-o', place('stopped'), '--part', 'all'];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    if (said === '') child.kill('SIGINT');
    said += text;
  });
  const [status] = (await once(child, 'close')) as [number];
  expect([status, said]).toEqual([1, expect.stringContaining('The export was stopped')]);
  expect(readdirSync(folder)).toEqual(before);
});
