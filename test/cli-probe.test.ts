/** `attune probe` of the built command, against diffusers, transformers and PEFT. */

import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { f32, i64, type NDArray, openSafetensors, writeSafetensors } from '@attune/engine';
import { relativeError } from '@attune/engine/testing';
import { describe, expect, test } from 'vitest';

import { attune } from './attune.ts';

const fixtures = 'test/parity/fixtures';
const forwardLimit = 5e-5;
const gradientLimit = 5e-4;
const fresh = () => mkdtempSync(join(tmpdir(), 'probe-'));

/** The tensors of a fixture under a prefix, without it. */
function tensorsOf(file: string, prefix: string): Record<string, NDArray> {
  const io = openSafetensors(file);
  return Object.fromEntries(
    [...io.tensors.keys()].flatMap((key) =>
      key.startsWith(prefix) ? [[key.slice(prefix.length), io.read(key)]] : [],
    ),
  );
}

/** Probes with a fixture's inputs and cotangents: the largest errors over what the fixture holds. */
function probe(model: string, file: string, ...options: readonly string[]) {
  const folder = fresh();
  const [inputs, vjp, out] = ['in', 'cot', 'out'].map((name) =>
    join(folder, `${name}.safetensors`),
  );
  writeSafetensors(inputs, tensorsOf(file, 'in.'));
  const cotangents = tensorsOf(file, 'cot.');
  delete cotangents.penultimate_hidden_state; // not an output of ours
  delete cotangents.logvar;
  const seeded = !options.includes('text-encoder');
  if (seeded) writeSafetensors(vjp, cotangents);
  const wish = seeded && !/io\.encode/.test(file) ? ['--vjp', vjp] : [];
  const places = ['--inputs', inputs, '--out', out, '--threads', '1'];
  const { status, stderr } = attune('probe', model, ...places, ...wish, ...options);
  expect(stderr).not.toMatch(/attune:/);
  expect(status).toBe(0);
  const got = openSafetensors(out);
  const worst = (prefix: string, as: string) => {
    const wanted = Object.entries(tensorsOf(file, prefix)).filter(([name]) =>
      got.tensors.has(as + name),
    );
    const errors = wanted.map(([name, want]) => relativeError(got.read(as + name), want));
    return { count: errors.length, error: Math.max(0, ...errors) };
  };
  const forward = worst('out.', '');
  const gradient = worst('grad.', 'grad.');
  expect(forward.count).toBeGreaterThan(0);
  expect(forward.error).toBeLessThan(forwardLimit);
  expect(gradient.error).toBeLessThan(gradientLimit);
  return { gradients: gradient.count, known: Object.keys(tensorsOf(file, 'grad.')).length };
}

/** The stack of a composition fixture as a file, its LoRAs to train. */
function stackFile(name: string, file: string, suffix = ''): string {
  const folder = resolve(`${fixtures}/compose/${name}`);
  const io = openSafetensors(`${folder}/io.${file}.safetensors`);
  const { adapters } = JSON.parse(io.metadata.case) as { adapters: Record<string, number> };
  const lines = ['video', 'edit', 'look', 'sway', 'words']
    .filter((adapter) => adapter in adapters)
    .map((adapter) => {
      const isLora = adapter !== 'video' && adapter !== 'edit';
      const end = isLora ? suffix || '.safetensors' : '';
      return `  - { name: ${adapter}, use: ${isLora ? 'lora' : adapter}, from: '${folder}/${adapter}${end}', strength: ${adapters[adapter]}${isLora ? ', train: true' : ''} }`;
    });
  const path = join(fresh(), 'stack.yaml');
  writeFileSync(
    path,
    `backbone: ${resolve(fixtures, 'unet', name)}\nadapters:\n${lines.join('\n')}\n`,
  );
  return path;
}

const composed = (name: string, file: string) =>
  `${fixtures}/compose/${name}/io.${file}.safetensors`;

describe('one part, once', () => {
  test.each(['sd15', 'sd2', 'pocket', 'ip2p', 'inpaint'])(
    'UNet %s',
    (name) => {
      const { gradients, known } = probe(
        `${fixtures}/unet/${name}`,
        `${fixtures}/unet/${name}/io.safetensors`,
      );
      expect(gradients).toBe(known);
    },
    60_000,
  );

  test.each(['kl-2', 'tiny-f8'])(
    'autoencoder %s',
    (name) => {
      const folder = `${fixtures}/vae/${name}`;
      probe(folder, `${folder}/io.encode.safetensors`, '--part', 'vae-encoder');
      const { gradients } = probe(
        folder,
        `${folder}/io.decode.safetensors`,
        '--part',
        'vae-decoder',
      );
      expect(gradients).toBe(1);
    },
    60_000,
  );

  test('text encoder, also by its own folder', () => {
    const folder = `${fixtures}/clip/quick`;
    for (const model of [folder, `${folder}/text_encoder_wrapped`]) {
      const { gradients } = probe(model, `${folder}/io.safetensors`, '--part', 'text-encoder');
      expect(gradients).toBe(0); // nothing trains
    }
  }, 60_000);

  test('the backbone’s own parameters, where they train', () => {
    const path = join(fresh(), 'stack.yaml');
    writeFileSync(path, `backbone: ${resolve(fixtures, 'unet/pocket')}\ntrain: ['unet.**']\n`);
    const { gradients, known } = probe(path, `${fixtures}/unet/pocket/io.params.safetensors`);
    expect(gradients).toBe(known);
  }, 60_000);
});

describe('stacks', () => {
  test.each([
    ['pocket', 'control'],
    ['pocket', 'motion'],
    ['pocket', 'lora'],
    ['pocket', 'stack'],
    ['pocket', 'strengths'],
    ['sd15', 'stack'],
  ])(
    '%s %s: prediction and every gradient',
    (name, file) => {
      const { gradients, known } = probe(stackFile(name, file), composed(name, file));
      expect(gradients).toBe(known);
    },
    60_000,
  );

  test.each(['rollout', 'rollout_text'])(
    '%s: latents and every gradient',
    (file) => {
      const { gradients, known } = probe(
        stackFile('pocket', file),
        composed('pocket', file),
        '--rollout',
      );
      expect(gradients).toBe(known);
    },
    120_000,
  );

  test.each([
    ['.kohya.safetensors', /^grad\.look\.lora_unet_.+\.lora_(down|up)\.weight$/],
    ['.peft', /^grad\.look\.base_model\.model\..+\.lora_[AB]\.weight$/],
  ])(
    'gradients have the keys of the file they belong to: %s',
    (suffix, key) => {
      const folder = fresh();
      const file = composed('pocket', 'lora');
      const [inputs, vjp, out] = ['in', 'cot', 'out'].map((n) => join(folder, `${n}.safetensors`));
      writeSafetensors(inputs, tensorsOf(file, 'in.'));
      writeSafetensors(vjp, tensorsOf(file, 'cot.'));
      const stack = stackFile('pocket', 'lora', suffix);
      const { status } = attune('probe', stack, '--inputs', inputs, '--vjp', vjp, '--out', out);
      expect(status).toBe(0);
      const names = [...openSafetensors(out).tensors.keys()].filter((n) =>
        n.startsWith('grad.look'),
      );
      expect(names).toHaveLength(206);
      for (const name of names) expect(name).toMatch(key);
    },
    60_000,
  );
});

const embeds = (seed: number) =>
  f32(
    Array.from({ length: 5 * 24 }, (_, i) => Math.sin(seed + i)),
    [1, 5, 24],
  );

describe('sampling and wrong use', () => {
  const model = `${fixtures}/unet/pocket`;
  const latents = f32(
    Array.from({ length: 4 * 64 }, (_, i) => Math.cos(7 * i)),
    [1, 4, 8, 8],
  );

  test('guidance 1 is the conditional rollout; another guidance is not', () => {
    const folder = fresh();
    const at = (name: string) => join(folder, `${name}.safetensors`);
    writeSafetensors(at('in'), {
      latents,
      prompt_embeds: embeds(1),
      negative_prompt_embeds: embeds(2),
    });
    const common = ['--sample', 'ddim', '--steps', '3', '--threads', '1', '--inputs', at('in')];
    const run = (out: string, guidance: string) =>
      attune('probe', model, ...common, '--out', at(out), '--guidance', guidance);
    expect(run('one', '1').status).toBe(0);
    expect(run('two', '4').status).toBe(0);
    const [one, two] = ['one', 'two'].map((name) => openSafetensors(at(name)).read('latents'));
    expect(one.shape).toEqual([1, 4, 8, 8]);
    expect(relativeError(two, one)).toBeGreaterThan(1e-3);
  }, 60_000);

  const good = { sample: latents, timestep: i64([10], [1]), encoder_hidden_states: embeds(1) };
  test.each<[string, Record<string, NDArray>, string[], RegExp]>([
    ['a missing input', { sample: latents }, [], /encoder_hidden_states is missing|timestep is/],
    [
      'an unknown input',
      { ...good, smaple: latents },
      [],
      /smaple; taken: .*nearest: sample|smaple/,
    ],
    ['NaN', { ...good, sample: f32([Number.NaN], [1, 1, 1, 1]) }, [], /holds NaN/],
    [
      'a wrong channel count',
      { ...good, sample: f32(new Float32Array(64), [1, 1, 8, 8]) },
      [],
      /4,8,8/,
    ],
    [
      'an odd size',
      { ...good, sample: f32(new Float32Array(4 * 25), [1, 4, 5, 5]) },
      [],
      /multiples of/,
    ],
    ['no frames', { ...good, sample: f32([], [1, 4, 0, 8, 8]) }, [], /is empty/],
    [
      'no times',
      { latents, timesteps: i64([], [0]), encoder_hidden_states: embeds(1) },
      ['--rollout'],
      /0 of them/,
    ],
    [
      'times that grow',
      { latents, timesteps: i64([1, 2], [2]), encoder_hidden_states: embeds(1) },
      ['--rollout'],
      /must decrease/,
    ],
    ['a part that is not there', good, ['--part', 'vae-deoder'], /vae-deoder/],
  ])('%s: exit 2, one message, nothing written', (_, tensors, options, message) => {
    const folder = fresh();
    writeSafetensors(join(folder, 'in.safetensors'), tensors);
    const [inputs, out] = ['in', 'out'].map((n) => join(folder, `${n}.safetensors`));
    const places = ['--inputs', inputs, '--out', out, '--threads', '1'];
    const { status, stderr } = attune('probe', model, ...places, ...options);
    expect(status).toBe(2);
    expect(stderr).toMatch(message);
    expect(stderr).not.toMatch(/\n\s+at /);
    expect(readdirSync(folder)).toEqual(['in.safetensors']);
  });

  test('a backbone that lacks weights, and an output that is the input', () => {
    const folder = fresh();
    mkdirSync(join(folder, 'unet'));
    cpSync(`${model}/unet/config.json`, join(folder, 'unet', 'config.json'));
    const [first] = Object.entries(
      tensorsOf(`${model}/unet/diffusion_pytorch_model.safetensors`, ''),
    );
    writeSafetensors(
      join(folder, 'unet', 'diffusion_pytorch_model.safetensors'),
      Object.fromEntries([first]),
    );
    const inputs = join(folder, 'in.safetensors');
    writeSafetensors(inputs, good);
    const out = join(folder, 'out.safetensors');
    const lacking = attune('probe', folder, '--inputs', inputs, '--out', out);
    expect([lacking.status, lacking.stderr]).toEqual([
      2,
      expect.stringMatching(/lacks \d+ weights/),
    ]);
    const same = attune('probe', model, '--inputs', inputs, '--out', inputs);
    expect([same.status, same.stderr]).toEqual([
      2,
      expect.stringMatching(/this is the input itself/),
    ]);
    expect(existsSync(out)).toBe(false);
  });
});
