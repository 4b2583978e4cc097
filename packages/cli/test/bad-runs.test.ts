/** Bad input that shows only where a run begins: views, routes, places, numbers. Exit 1 or 2 and one message. */

import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';

import { f32, openSafetensors, Rng, writeSafetensors } from '@attune/engine';
import sharp from 'sharp';
import { beforeAll, describe, expect, test } from 'vitest';

import { at, commanded, copied, fixtures } from './hostile-scene.ts';

const backbone = `${fixtures}/unet/pocket`;
const edit = { use: 'edit', from: `${fixtures}/compose/pocket/edit` };
const bin = resolve('packages/cli/bin/attune.js');

/** Writes JSON, which YAML is, too. */
function written(name: string, value: unknown): string {
  writeFileSync(at(name), JSON.stringify(value));
  return at(name);
}

beforeAll(async () => {
  const red = { create: { width: 64, height: 64, channels: 3, background: 'red' } } as const;
  await sharp(red).png().toFile(at('red.png'));
  written('edit.yaml', { backbone, adapters: [edit] });
});

const whole = {
  encoder_hidden_states: 'text.caption',
  'edit.encoder_hidden_states': 'text.instruction',
  'edit.image': 'source',
};
const { 'edit.image': image, ...without } = whole;

interface Changes {
  readonly student?: object;
  readonly teacher?: object;
  readonly guidance?: object;
  readonly strength?: number;
}

function distillation({ student = whole, teacher = whole, guidance = {}, strength = 1 }: Changes) {
  const align = { name: 'align', use: 'lora', rank: 2, train: true };
  return written('distill.yaml', {
    distill: {
      student: { stack: { backbone, adapters: [{ ...edit, strength }, align] }, view: student },
      teachers: { edit: { stack: { backbone, adapters: [edit] }, view: teacher, guidance } },
      rollout: { steps: 1 },
      phases: [{ until: 1 }],
      batch: 1,
    },
    data: { use: 'pocket/edits', frames: 'one', length: 2 },
  });
}

describe('what a view feeds', () => {
  test.each<[string, Changes, RegExp]>([
    [
      'a port that there is not',
      { student: { ...whole, 'edit.nonsense': 'source' } },
      /student\.view: nothing of the stack takes edit\.nonsense; nearest: edit\.image;/,
    ],
    [
      'one that is spelled otherwise',
      { student: { ...without, 'edit.imag': image } },
      /student\.view: nothing of the stack takes edit\.imag; nearest: edit\.image; taken: encoder/,
    ],
    [
      "a teacher's port that there is not",
      { teacher: { ...whole, 'video.first_frame': 'source' } },
      /teachers\.edit\.view: nothing of the stack takes video\.first_frame/,
    ],
    ['not all', { teacher: without }, /teachers\.edit\.view: edit\.image has to be fed/],
    [
      'not what guidance leaves out',
      { guidance: { scale: 2, drop: ['edit.imag'] } },
      /teachers\.edit\.guidance: edit\.imag is to be left out.*nearest: edit\.image/,
    ],
  ])('%s', async (_, changes, message) => {
    const file = distillation(changes);
    const { status, said } = await commanded('distill', file, '--run', at('viewed'));
    expect(said).toMatch(message);
    expect(said).not.toMatch(/lora_A/);
    expect(status).toBe(2);
    expect(existsSync(at('viewed'))).toBe(false);
  });

  test('an adapter of strength 0 may be spoken of', async () => {
    const file = distillation({ strength: 0 });
    const { status } = await commanded('distill', file, '--run', at('off'), '--threads', '1');
    expect(status).toBe(0);
  });
});

describe('a port that there is not', () => {
  test('in routes of a stack and of the command', async () => {
    const routes = { 'edit.imag': 'input' };
    const routed = written('routed.yaml', { backbone, adapters: [edit], routes });
    const own = ['edit', at('red.png'), '-i', 'x', '-o', at('no.png'), '--stack'];
    for (const more of [[routed], [at('edit.yaml'), '--route', 'edit.imag=input']]) {
      const { status, said } = await commanded(...own, ...more);
      expect(said).toMatch(/nothing is called edit\.imag .*nearest: edit\.image/);
      expect(status).toBe(2);
    }
  });

  test('in the inputs of a probe', async () => {
    const { said } = await commanded('probe', at('edit.yaml'), ...probing('edit.imag'));
    expect(said).toMatch(/Nothing takes the input edit\.imag.*nearest: edit\.image/);
  });
});

/** Options of a probe with one input more than the net's own. */
function probing(more: string): string[] {
  const tensors = {
    sample: Rng.of(1).normals([1, 4, 16, 16]),
    timestep: f32([5], [1]),
    encoder_hidden_states: Rng.of(2).normals([1, 16, 24]),
    [more]: Rng.of(3).normals([1, 3, 64, 64]),
  };
  writeSafetensors(at('in.safetensors'), tensors, {});
  return ['--inputs', at('in.safetensors'), '--out', at('out.safetensors')];
}

/** A training of a tiny autoencoder. */
function training(changes: object): string {
  mkdirSync(at('tiny/vae'), { recursive: true });
  written('tiny/vae/config.json', {
    _class_name: 'AutoencoderTiny',
    encoder_block_out_channels: [4, 4],
    decoder_block_out_channels: [4, 4],
    num_encoder_blocks: [0, 1],
    num_decoder_blocks: [1, 0],
  });
  rmSync(at('trained'), { recursive: true, force: true });
  return written('train.yaml', {
    stack: { backbone: './tiny', train: ['vae.**'] },
    objective: { use: 'autoencode' },
    data: { use: 'pocket/images' },
    train: { steps: 1, batch: 2, ...changes },
  });
}

test.runIf(process.platform === 'linux')('a run where no folder can be made', async () => {
  for (const [command, file] of [
    ['train', training({})],
    ['distill', distillation({})],
  ])
    for (const place of ['/proc/x', '/proc/x/y']) {
      const { status, said } = await commanded(command, file, '--run', place);
      expect(said).toMatch(/No run can be kept at \/proc\/x/);
      expect(status).toBe(2);
    }
});

describe('numbers', () => {
  test('a run of one step says it', async () => {
    const { status, said } = await commanded('train', training({}), '--run', at('trained'));
    expect(said).toMatch(/step 1\/1 {2}loss \d/);
    expect(status).toBe(0);
  });

  test.each([
    [
      { steps: 20, lr: 1e30 },
      /Step 4: .*not finite, as in the 2 before.*learning rate than 1e\+30/,
    ],
    [{ steps: 2, lr: 1e30 }, /Step 2: .*not finite\. The training diverged/],
    [{ steps: 1, lr: 1e300 }, /Step 1: vae\.\S+ is not finite/],
  ])('a learning rate that no training survives: %j', async (changes, message) => {
    const { status, said } = await commanded('train', training(changes), '--run', at('trained'));
    expect(said).toMatch(message);
    expect(status).toBe(2);
    expect(existsSync(at('trained/best'))).toBe(false);
  });

  test('NaN in the weights of an adapter or of the backbone is told with its file', async () => {
    const unet = join(copied(backbone, 'sick'), 'unet', 'diffusion_pytorch_model.safetensors');
    spoiled(`${backbone}/unet/diffusion_pytorch_model.safetensors`, unet);
    const sway = at('sway-nan.safetensors');
    spoiled(`${fixtures}/compose/pocket/look.safetensors`, sway);
    const stacks = [
      { backbone: at('sick'), adapters: [] },
      { backbone, adapters: [{ use: 'lora', from: sway }] },
    ];
    for (const [i, name] of [/sick\/unet\/diffusion_pytorch_model/, /sway-nan/].entries()) {
      const file = written('nan.yaml', stacks[i]);
      const made = ['generate', 'a cat', '--stack', file, '-o', at('nan.png'), '--steps', '1'];
      const { status, said } = await commanded(...made);
      expect(said).toMatch(name);
      expect(said).toMatch(/the tensor \S+ holds NaN or infinity/);
      expect(status).toBe(2);
    }
  });

  test('-Infinity where a config is read is told with its place', async () => {
    const folder = copied(backbone, 'endless');
    const file = join(folder, 'unet', 'config.json');
    const text = readFileSync(file, 'utf8').replace(/"norm_eps": [^,]+/, '"norm_eps": -Infinity');
    rmSync(file);
    writeFileSync(file, text);
    const made = ['generate', 'a cat', '--stack', folder, '-o', at('endless.png')];
    const { status, said } = await commanded(...made);
    expect(said).toMatch(/unet\/config\.json.*-?Infinity[^]*at norm_eps/);
    expect(status).toBe(2);
  });
});

test('a task for adapters without labels', async () => {
  const own = ['edit', at('red.png'), '-i', 'x', '--stack', at('edit.yaml'), '-o', at('task.png')];
  const { status, said } = await commanded(...own, '--task', '3');
  expect(said).toMatch(/--task: no adapter of this stack has labels/);
  expect(status).toBe(2);
});

test.runIf(process.platform === 'linux')('a command runs within 3 GB of addresses', () => {
  const command = `ulimit -v 3000000; exec "${process.execPath}" "${bin}" tokenize "${backbone}" cat`;
  const { status, stderr } = spawnSync('bash', ['-c', command], { encoding: 'utf8' });
  expect(stderr).not.toMatch(/Error|unexpected/);
  expect(status).toBe(0);
});

test('sizes that take long to prepare are told before', async () => {
  const made = ['edit', at('red.png'), '-i', 'x', '--stack', at('edit.yaml'), '-o', at('long.png')];
  const child = spawn(process.execPath, [bin, ...made, '--size', '100000x64'], { stdio: 'pipe' });
  try {
    let said = '';
    for await (const text of child.stderr.setEncoding('utf8')) {
      said += text;
      if (said.includes('\n')) break;
    }
    expect(said).toMatch(/^100000x64: making the nets ready .* may take minutes/);
  } finally {
    child.kill('SIGKILL');
  }
});

/** Copies a file of weights, the first value of its first tensor not a number. */
function spoiled(from: string, to: string): void {
  const file = openSafetensors(from);
  const keys = [...file.tensors.keys()];
  const tensors = Object.fromEntries(keys.map((key) => [key, file.read(key)]));
  const { data, shape } = tensors[keys[0]];
  tensors[keys[0]] = f32(Float32Array.from(data as Float32Array).fill(Number.NaN, 0, 1), shape);
  rmSync(to, { force: true });
  writeSafetensors(to, tensors, file.metadata);
}
