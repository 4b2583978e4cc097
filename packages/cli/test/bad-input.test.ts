/** Bad input to the built command: exit 1 or 2, one clear message, nothing half-written, never a stack trace. */

import { spawn, spawnSync } from 'node:child_process';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { f32, openSafetensors, writeSafetensors } from '@attune/engine';
import sharp from 'sharp';
import { beforeAll, describe, expect, test, vi } from 'vitest';

import { main } from '../src/main.ts';

const fixtures = resolve('test/parity/fixtures');
const backbone = `${fixtures}/unet/pocket`;
const composed = `${fixtures}/compose/pocket`;
const bin = resolve('packages/cli/bin/attune.js');

let at: (name: string) => string;

beforeAll(async () => {
  const folder = mkdtempSync(join(tmpdir(), 'bad-'));
  at = (name) => join(folder, name);
  const frame = sharp({ create: { width: 33, height: 47, channels: 3, background: '#c04040' } });
  await frame.png().toFile(at('picture.png'));
  const frames = Array.from({ length: 12 }, (_, i) =>
    sharp({
      create: { width: 32, height: 32, channels: 3, background: { r: 20 * i, g: 9, b: 9 } },
    }),
  );
  const pages = await Promise.all(frames.map((one) => one.png().toBuffer()));
  await sharp(pages, { join: { animated: true } })
    .webp({ lossless: true })
    .toFile(at('clip.webp'));
  writeFileSync(at('text.png'), 'no picture at all');
  mkdirSync(at('empty'));
});

interface Run {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

function attune(...args: readonly string[]): Run {
  return spawnSync(process.execPath, [bin, ...args], {
    encoding: 'utf8',
    timeout: 120_000,
    cwd: at(''),
  });
}

/** What every refusal has in common: one message on stderr, without the code's own places. */
function refused({ status, stdout, stderr }: Run, exit: number, message: RegExp): void {
  expect(stderr).toMatch(message);
  expect(stderr).not.toMatch(/\n\s+at |unexpected:|internal:/);
  expect(stderr.match(/^(attune|error): /gm)).toHaveLength(1);
  expect(stdout).toBe('');
  expect(status).toBe(exit);
}

/** A stack file over the fixtures. */
function stack(name: string, adapters: readonly string[], more = ''): string {
  const lines = adapters.map((entry) => `  - ${entry}\n`).join('');
  writeFileSync(at(name), `backbone: ${backbone}\n${more}adapters:\n${lines || '  []\n'}`);
  return at(name);
}

const edit = `{ use: edit, from: ${composed}/edit }`;
const video = `{ use: video, from: ${composed}/video }`;
const look = `{ name: look, use: lora, from: ${composed}/look.safetensors }`;

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

// Stacks, models and the suite named here are missing: what is said of the place was said before anything was opened.
describe('a place that cannot be written is refused before anything is done', () => {
  const cases: readonly [string, readonly string[], string][] = [
    ['compose', ['nothing', 'text.png'], '.yaml'],
    ['convert', ['nothing', '--base', 'nothing', '--to', 'kohya'], '.safetensors'],
    ['edit', ['clip.webp', '-i', 'x', '--stack', 'nothing'], '.webp'],
    ['eval', ['nothing'], '.json'],
    ['export', ['nothing'], ''],
    ['generate', ['a cat', '--stack', 'nothing'], '.png'],
    ['probe', ['nothing', '--inputs', 'text.png'], '.safetensors'],
    ['report', ['nothing'], '.html'],
    ['demo', ['--clip', 'nothing.mp4'], ''],
  ];

  test.each(cases)('%s', (command, args, extension) => {
    const before = readdirSync(at(''));
    const to = (out: string) => attune(command, ...args, '--out', `${out}${extension}`);
    refused(to('nowhere/out'), 2, /there is no folder .*nowhere; create it/);
    refused(to('text.png/out'), 2, /there is no folder .*text\.png; create it/);
    expect(readdirSync(at(''))).toEqual(before);
  });

  test('folders where files should stand, files where folders should', () => {
    for (const [command, args, extension] of cases) {
      const name = `place-${command}${extension}`;
      if (extension === '') writeFileSync(at(name), 'mine');
      else mkdirSync(at(name));
      if (extension !== '') writeFileSync(join(at(name), 'mine.txt'), 'mine');
      const forced = ['compose', 'convert', 'export'].includes(command) ? ['--force'] : [];
      const message = /this is not a file|a file stands where|it is no adapter/;
      refused(attune(command, ...args, '--out', name, ...forced), 2, message);
      expect(readFileSync(extension ? join(at(name), 'mine.txt') : at(name), 'utf8')).toBe('mine');
    }
  });

  test('a clip as a still, a report of another kind', () => {
    const edited = ['edit', 'clip.webp', '-i', 'x', '--stack', 'nothing', '-o', 'still.png'];
    refused(attune(...edited), 2, /a clip does not fit into a still/);
    refused(attune(...edited, '--max-frames', '1'), 2, /nothing is no model folder/);
    const made = ['generate', 'a cat', '--stack', 'nothing', '--frames', '2', '-o', 'still.jpg'];
    refused(attune(...made), 2, /a clip does not fit into a still/);
    for (const name of ['report', 'report.txt', 'report.json.gz'])
      refused(attune('eval', 'nothing', '--out', name), 2, /name it \.json or \.md/);
  });
});

/** A recipe with one teacher on the fixtures, some lines replaced. */
function recipe(name: string, changes: Readonly<Record<string, string>> = {}): string {
  const view =
    '{ encoder_hidden_states: text.caption, edit.encoder_hidden_states: text.instruction, edit.image: source }';
  const lines: Record<string, string> = {
    strength: '1',
    teachers: `{ edit: { stack: { backbone: ${backbone}, adapters: [${edit}] }, view: ${view} } }`,
    rollout: '{ steps: 1 }',
    batch: '1',
    phases: '[{ until: 1 }]',
    data: '{ use: pocket/edits, frames: one, length: 2 }',
    schedule: 'default',
    ...changes,
  };
  writeFileSync(
    at(name),
    `distill:
  student:
    stack: { backbone: ${backbone}, schedule: ${lines.schedule}, adapters: [${edit}, { name: align, use: lora, rank: 2, train: true, strength: ${lines.strength} }] }
    view: ${view}
  teachers: ${lines.teachers}
  rollout: ${lines.rollout}
  phases: ${lines.phases}
  batch: ${lines.batch}
data: ${lines.data}
`,
  );
  return at(name);
}

const distill = (file: string, run = 'run', ...more: readonly string[]): Run =>
  attune('distill', file, '--run', at(run), ...more);

describe('recipes', () => {
  test.each<[string, Readonly<Record<string, string>>, RegExp]>([
    [
      'a trainable adapter at strength 0',
      { strength: '0' },
      /align is to train but its strength is 0/,
    ],
    ['no step at all', { rollout: '{ steps: 0 }' }, /rollout\.steps/],
    ['more steps than times', { rollout: '{ steps: 5000 }' }, /5000.*1000 times/],
    ['no teachers', { teachers: '{}' }, /at least one teacher/],
    [
      'a teacher that names a field of the data',
      { teachers: `{ first_frame: { stack: { backbone: ${backbone} }, view: {} } }` },
      /teachers\.first_frame: names a field/,
    ],
    ['no data', { data: '{ use: pocket/edits, length: 0 }' }, /length/],
    ['an unknown data source', { data: '{ use: pocket/edit }' }, /pocket\/edits/],
    ['micro-batches that do not fit', { batch: '3\n  micro: 2' }, /do not split/],
    [
      'adversarial without a critic',
      { phases: '[{ until: 1, adversarial: true }]' },
      /no teacher has a critic/,
    ],
    [
      'ε-prediction at zero terminal SNR',
      {
        schedule:
          '{ _class_name: DDIMScheduler, beta_start: 0.00085, beta_end: 0.012, beta_schedule: scaled_linear, num_train_timesteps: 1000, rescale_betas_zero_snr: true, prediction_type: epsilon, clip_sample: false }',
      },
      /zero|SNR|epsilon/,
    ],
  ])('%s', (_, changes, message) => {
    refused(distill(recipe('r.yaml', changes)), 2, message);
    expect(existsSync(at('run'))).toBe(false);
  });

  test('a run that exists, and one whose recipe changed since', () => {
    const first = recipe('first.yaml');
    expect(distill(first, 'taken').status).toBe(0);
    refused(distill(first, 'taken'), 2, /--resume/);
    refused(distill(recipe('other.yaml', { batch: '2' }), 'taken', '--resume'), 2, /batch/);
  });

  test('two processes on one run', async () => {
    const long = recipe('long.yaml', { phases: '[{ until: 500 }]' });
    const one = spawn(process.execPath, [bin, 'distill', long, '--run', at('busy')], {
      cwd: at(''),
    });
    try {
      await new Promise((ready) => one.stderr.once('data', ready));
      refused(distill(long, 'busy', '--resume'), 2, /in use by process/);
      expect(one.exitCode).toBeNull();
    } finally {
      one.kill('SIGKILL');
    }
  });

  test('a run in a place that cannot be', () => {
    refused(distill(recipe('r.yaml'), 'picture.png/run'), 2, /picture\.png/);
    expect(readdirSync(at(''))).not.toContain('run');
  });

  test('a disk that fills up while a checkpoint is written: the run ends with a message, and goes on later', () => {
    const file = recipe('full.yaml', { phases: '[{ until: 2 }]' });
    const small = spawnSync(
      'bash',
      ['-c', `ulimit -f 8; exec "${process.execPath}" "${bin}" distill "${file}" --run full`],
      { encoding: 'utf8', timeout: 120_000, cwd: at('') },
    );
    refused(small, 1, /full.*(EFBIG|too large)/s);
    expect(readdirSync(at('full/checkpoints')).filter((name) => name.startsWith('step'))).toEqual(
      [],
    );
    const again = distill(file, 'full', '--resume');
    expect(again.status).toBe(0);
    expect(existsSync(at('full/best/align.safetensors'))).toBe(true);
  });

  test('a hinge critic at one clip a step', () => {
    const critic = `, critic: { width: 8 }, sampling: { steps: 1 } } }`;
    const file = recipe('hinge.yaml', { phases: '[{ until: 2, adversarial: true }]' });
    writeFileSync(
      file,
      readFileSync(file, 'utf8').replace(/ \} \}\n {2}rollout/, `${critic}\n  rollout`),
    );
    const { status, stderr } = distill(file, 'hinge');
    expect(stderr).toMatch(/step 2\/2/);
    expect(status).toBe(0);
  });
});
