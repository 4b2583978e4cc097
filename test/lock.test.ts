/** `stack.lock.json` of the built command: written beside the stack, remembered, and heeded with --frozen. */

import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { parseYaml, StackFile, StackLock } from '@attune/core';
import { openSafetensors, writeSafetensors } from '@attune/engine';
import sharp from 'sharp';
import { beforeAll, describe, expect, test } from 'vitest';

import { attune } from './attune.ts';

const fixtures = resolve('test/parity/fixtures');
const composed = `${fixtures}/compose/pocket`;
const backbone = `${fixtures}/unet/pocket`;

/** Composed once; a lock does not depend on where its stack lies. */
const origin = mkdtempSync(join(tmpdir(), 'lock-'));
let said = '';
beforeAll(() => {
  cpSync(backbone, join(origin, 'model'), { recursive: true });
  cpSync(`${composed}/edit`, join(origin, 'edit'), { recursive: true });
  cpSync(`${composed}/look.safetensors`, join(origin, 'look.safetensors'));
  const args = ['model', 'edit', 'look.safetensors'].map((name) => join(origin, name));
  said = attune('compose', ...args, '-o', join(origin, 'stack.yaml')).stdout;
});

/** A locked stack whose files may be changed: backbone, edit adapter, LoRA. */
function locked() {
  const folder = join(mkdtempSync(join(tmpdir(), 'locked-')), 'stack');
  cpSync(origin, folder, { recursive: true });
  const stack = join(folder, 'stack.yaml');
  const lock = join(folder, 'stack.lock.json');
  const read = () => StackLock.parse(JSON.parse(readFileSync(lock, 'utf8')));
  return { folder, stack, lock, read };
}

/** What a locked stack's folder holds, and places in it for what commands read and write. */
const paths = (folder: string) => ({
  folder,
  stack: join(folder, 'stack.yaml'),
  file: join(folder, 'look.safetensors'),
  inputs: join(folder, 'in.safetensors'),
  picture: join(folder, 'lion.png'),
  out: join(folder, 'out.png'),
});

/** The same tensors with one value more in one of them. */
function touch(file: string): void {
  const source = openSafetensors(file);
  const tensors = Object.fromEntries([...source.tensors.keys()].map((k) => [k, source.read(k)]));
  (Object.values(tensors)[0].data as Float32Array)[0] += 1;
  writeSafetensors(file, tensors, source.metadata);
}

test('holds hashes, sizes, versions, options, terms and the proof', () => {
  const { folder, read } = locked();
  expect(readdirSync(folder).toSorted()).toEqual(
    ['edit', 'look.safetensors', 'model', 'stack.lock.json', 'stack.yaml'].toSorted(),
  );
  const lock = read();
  const bytes = readFileSync(join(folder, 'look.safetensors'));
  expect(lock.adapters.lora.files).toEqual({
    'look.safetensors': {
      size: bytes.length,
      sha256: createHash('sha256').update(bytes).digest('hex'),
    },
  });
  expect(Object.keys(lock.backbone.files)).toEqual(
    expect.arrayContaining([
      'unet/diffusion_pytorch_model.safetensors',
      'unet/config.json',
      'scheduler/scheduler_config.json',
      'tokenizer/tokenizer.json',
    ]),
  );
  expect(lock.order).toEqual(['edit', 'lora']);
  expect(lock.plugins['@attune/adapter-lora']).toEqual({
    version: '0.0.0',
    license: 'Apache-2.0',
    capabilities: [],
  });
  expect(lock.license).toEqual({
    strictest: null,
    asks: null,
    unknown: ['backbone', 'edit', 'lora'],
  });
  expect(Object.keys(lock.proof!.adapters)).toEqual(['edit', 'lora']);
  expect(said).toMatch(/edit .* changes the output by [\d.]+ % \(alone by [\d.]+ %\)/);
  expect(said).toContain('licence: none known; unknown: backbone, edit, lora');
  // Nothing in it depends on where it lies.
  expect(JSON.stringify(lock)).not.toContain(folder);
});

test('licences: from the header, the model card and the stack file; the strictest is that of the stack', () => {
  const { folder, stack } = locked();
  const file = join(folder, 'look.safetensors');
  const source = openSafetensors(file);
  const tensors = Object.fromEntries([...source.tensors.keys()].map((k) => [k, source.read(k)]));
  writeSafetensors(file, tensors, { ...source.metadata, 'modelspec.license': 'CC-BY-NC-4.0' });
  writeFileSync(
    join(folder, 'model', 'README.md'),
    '---\nlicense: creativeml-openrail-m\n---\n# It\n',
  );
  const { stdout } = attune('compose', stack, '--check', '--json', '--no-proof');
  expect((JSON.parse(stdout) as { license: unknown }).license).toEqual({
    strictest: 'CC-BY-NC-4.0',
    asks: 'no commercial use',
    unknown: ['edit'],
  });
});

describe('--frozen', () => {
  test('lets a stack through that is what its lock says, wherever it lies', () => {
    const { stack } = locked();
    const check = attune('compose', stack, '--check', '--frozen');
    expect([check.status, check.stdout]).toEqual([0, expect.stringContaining('is up to date')]);
    expect(attune('inspect', stack, '--verify').status).toBe(0);
    expect(attune('tokenize', stack, 'a dog', '--frozen').status).toBe(0);
  });

  describe('refuses drift with the differences', () => {
    const { folder, stack, file, inputs, picture, out } = paths(
      join(mkdtempSync(join(tmpdir(), 'drift-')), 'stack'),
    );
    beforeAll(() => {
      cpSync(origin, folder, { recursive: true });
      touch(file);
      const text = readFileSync(stack, 'utf8');
      writeFileSync(stack, text.replace('use: edit', 'use: edit\n    strength: 0.5'));
      attune('generate', 'a lion', '--steps', '1', '-o', picture);
    });

    test.each([
      ['compose', stack, '--check'],
      ['inspect', stack],
      ['inspect', file, '--base', stack],
      ['tokenize', stack, 'a dog'],
      ['probe', stack, '--inputs', inputs, '--out', out],
      ['convert', file, '--base', stack, '--to', 'kohya', '-o', out],
      ['generate', 'a dog', '--stack', stack, '-o', out],
      ['edit', picture, '--stack', stack, '-i', 'x', '-o', out],
      ['eval', 'pocket', '--stack', stack],
      ['report', stack],
    ])('in %s', (...args) => {
      const { status, stderr } = attune(...args, '--frozen');
      expect([status, stderr, existsSync(out)]).toEqual([
        2,
        expect.stringMatching(
          /is not what stack\.lock\.json says \(locked → now\):\n {2}adapters\.edit\.strength: 1 → 0\.5\n {2}adapters\.lora\.files\.look\.safetensors\.sha256: [0-9a-f]{12}… → [0-9a-f]{12}…\n.*--lock/,
        ),
        false,
      ]);
    });

    test('which compose --check tells, until the stack is locked anew', () => {
      const check = attune('compose', stack, '--check', '--no-proof');
      expect(check.status).toBe(0);
      expect(check.stdout).toMatch(
        /out of date \(locked → now\):\n {2}adapters\.edit\.strength: 1 → 0\.5/,
      );
      expect(attune('compose', stack, '--lock').status).toBe(0);
      expect(attune('compose', stack, '--check', '--frozen', '--no-proof').status).toBe(0);
    });
  });

  test('needs a stack file with a lock that can be read', () => {
    const model = attune('tokenize', backbone, 'a dog', '--frozen');
    expect([model.status, model.stderr]).toEqual([
      2,
      expect.stringMatching(/only a stack file has a lock/),
    ]);
    const { stack, lock } = locked();
    writeFileSync(lock, '{');
    expect(attune('tokenize', stack, 'a dog', '--frozen')).toMatchObject({ status: 2 });
    writeFileSync(lock, '{"version":2}');
    const broken = attune('tokenize', stack, 'a dog', '--frozen');
    expect([broken.status, broken.stderr]).toEqual([
      2,
      expect.stringMatching(/stack\.lock\.json: version/),
    ]);
    expect(attune('compose', stack, '--lock', '--no-proof').status).toBe(0);
  });
});

const flat = (colour: string) =>
  sharp({ create: { width: 8, height: 8, channels: 3, background: colour } }).png();

/** A masked LoRA, a routed picture, and the lock of both. */
const masked = async () => {
  const { folder, stack, lock } = locked();
  await flat('grey').toFile(join(folder, 'mask.png'));
  await flat('red').toFile(join(folder, 'hint.png'));
  const text = readFileSync(stack, 'utf8')
    .replace(
      'use: lora',
      'use: lora\n    strength: { default: { mask: mask.png }, unet.mid_block: 0.5 }',
    )
    .concat('routes: { edit.image: { image: hint.png } }\n');
  writeFileSync(stack, text);
  expect(attune('compose', stack, '--lock', '--no-proof').status).toBe(0);
  return { folder, stack, lock };
};

describe('files that strengths and routes name', () => {
  test('are in the lock by their contents, and drift with them', async () => {
    const { folder, stack, lock } = await masked();
    const text = readFileSync(lock, 'utf8');
    expect(text).not.toMatch(/mask\.png|hint\.png/);
    expect(attune('tokenize', stack, 'a dog', '--frozen').status).toBe(0);
    await flat('white').toFile(join(folder, 'mask.png'));
    await flat('blue').toFile(join(folder, 'hint.png'));
    for (const flag of ['--frozen', '--verify']) {
      const { status, stderr } = attune('tokenize', stack, 'a dog', flag);
      expect(status).toBe(2);
      expect(stderr).toMatch(/adapters\.lora\.strength\.default\.mask\.sha256: \w{12}… → \w{12}…/);
      expect(stderr).toMatch(/routes\.edit\.image\.image\.sha256: \w{12}… → \w{12}…/);
    }
    expect(attune('compose', stack, '--lock', '--no-proof').status).toBe(0);
    expect(readFileSync(lock, 'utf8')).not.toBe(text);
  });
});

describe('recipes', () => {
  test('train and distill: --lock writes all stacks, --frozen refuses what has changed', () => {
    const { folder, stack } = locked();
    const { adapters } = parseYaml(StackFile, readFileSync(stack, 'utf8'), stack);
    const own = { backbone: './model', adapters: adapters.slice(0, 1) };
    const student = { ...own, adapters: [...own.adapters, { use: 'lora', rank: 1, train: true }] };
    const view = { encoder_hidden_states: 'text.caption', 'edit.image': 'source' };
    const recipes = {
      train: {
        stack: student,
        objective: { use: 'denoise' },
        data: { use: 'pocket/captioned' },
        train: { steps: 1, batch: 1, lr: 0.1 },
      },
      distill: {
        distill: {
          student: { stack: student, view },
          teachers: { edit: { stack: own, view } },
          phases: [{ until: 1 }],
        },
        data: { use: 'pocket/edits' },
      },
    };
    const at = (command: string) => join(folder, `${command}.yaml`);
    for (const [command, recipe] of Object.entries(recipes)) {
      writeFileSync(at(command), JSON.stringify(recipe));
      expect(attune(command, at(command), '--frozen').stderr).toMatch(
        new RegExp(
          `no ${command}\\.lock\\.json beside it: write one with attune ${command} .*--lock`,
        ),
      );
      const { status, stderr } = attune(command, at(command), '--lock');
      expect([status, stderr]).toEqual([0, expect.stringMatching(/wrote .*\.lock\.json/)]);
    }
    touch(join(folder, 'edit', 'diffusion_pytorch_model.safetensors'));
    const wants = {
      train: /stack\.adapters\.edit\.files/,
      distill: /teachers\.edit\.adapters\.edit/,
    };
    for (const [command, message] of Object.entries(wants)) {
      const run = join(folder, 'runs', command);
      const { status, stderr } = attune(command, at(command), '--run', run, '--frozen');
      expect([status, stderr]).toEqual([2, expect.stringMatching(message)]);
      expect(existsSync(run)).toBe(false);
    }
  });

  test('the bundled stacks, which demo opens, are what their locks say', () => {
    for (const name of ['pocket/plain', 'pocket/aligned'])
      expect(attune('tokenize', name, 'a dog', '--verify')).toMatchObject({ status: 0 });
  });
});

test('the proof is remembered as long as nothing changes, and made anew when something does', () => {
  const { folder, stack, lock, read } = locked();
  const made = read();
  // A lie in the lock shows whether it is read.
  const lie = { ...made, proof: { ...made.proof!, adapters: { ...made.proof!.adapters } } };
  lie.proof.adapters.lora = { left_out: 0.123, alone: 0.456, blocks: {} };
  writeFileSync(lock, JSON.stringify(lie));
  const remembered = attune('compose', stack, '--check').stdout;
  expect(remembered).toContain('changes the output by 12 % (alone by 46 %)');
  touch(join(folder, 'look.safetensors'));
  expect(attune('compose', stack, '--lock').stdout).not.toContain('12 %');
  expect(read().proof!.of).not.toBe(made.proof!.of);
  expect(read().proof!.adapters.edit.alone).toBe(made.proof!.adapters.edit.alone);
});

test('an adapter without effect is refused, and nothing is written', () => {
  const { folder } = locked();
  const file = join(folder, 'look.safetensors');
  const source = openSafetensors(file);
  const tensors = Object.fromEntries(
    [...source.tensors.keys()].map((key) => {
      const array = source.read(key);
      if (key.includes('lora_B')) (array.data as Float32Array).fill(0);
      return [key, array];
    }),
  );
  writeSafetensors(file, tensors, source.metadata);
  const out = join(folder, 'idle.yaml');
  const { status, stderr } = attune('compose', join(folder, 'model'), file, '-o', out);
  expect([status, stderr]).toEqual([2, expect.stringMatching(/lora changes nothing/)]);
  expect([existsSync(out), existsSync(join(folder, 'idle.lock.json'))]).toEqual([false, false]);
  expect(attune('compose', join(folder, 'model'), file, '-o', out, '--no-proof').status).toBe(0);
});

describe('conflicts on the command line', () => {
  test('frames: more than an adapter sees', () => {
    const args = [backbone, `${composed}/video`, '--check'];
    expect(attune('compose', ...args, '--frames', '4').status).toBe(0);
    const { status, stderr } = attune('compose', ...args, '--frames', '999');
    expect([status, stderr]).toEqual([
      2,
      expect.stringMatching(/sees at most \d+ frames at once, 999 were asked for; make/),
    ]);
  });

  test('a warning of the schedule comes with its times', () => {
    const folder = mkdtempSync(join(tmpdir(), 'sd1-'));
    const stack = join(folder, 'stack.yaml');
    writeFileSync(
      stack,
      JSON.stringify({
        backbone: `${fixtures}/checkpoints/sd1.ckpt`,
        config: `${fixtures}/checkpoints/sd1.configs`,
        adapters: [
          {
            use: 'video',
            from: `${fixtures}/checkpoints/motion.ckpt`,
            motion_num_attention_heads: 4,
            motion_norm_num_groups: 2,
          },
        ],
      }),
    );
    const { status, stderr } = attune('compose', stack, '--check');
    expect([status, stderr]).toEqual([
      0,
      expect.stringMatching(
        /warning: video was trained with linear β.*t = 499 there is that of t = 599 here/,
      ),
    ]);
  });
});

describe('attune report', () => {
  test('text, JSON and one page that needs nothing else', () => {
    const out = join(mkdtempSync(join(tmpdir(), 'report-')), 'page.html');
    const { status, stdout } = attune('report', 'pocket/aligned', '-o', out);
    expect(status).toBe(0);
    expect(stdout).toMatch(/\| edit +\| +[\d.]+ \| +[\d.]+ \| +[\d.]+ \|/);
    expect(stdout).toMatch(/without align +edit × video +unet\.up_blocks\.2 +0\.\d{3} +-?0\.\d{3}/);
    const page = readFileSync(out, 'utf8');
    expect(page).toContain('with align');
    expect(page.match(/class="heat"/g)).toHaveLength(2);
    expect(page).not.toMatch(/<script|https?:|src=/);
    const json = attune('report', 'pocket/plain', '--json').stdout;
    const { adapters, after } = JSON.parse(json) as { adapters: string[]; after?: unknown };
    expect([adapters, after]).toEqual([['edit', 'video'], undefined]);
  }, 300_000);

  test.each([
    [['pocket'], /has no adapters/],
    [['pocket/aligned', '--align', 'alignn'], /nearest: align/],
    [['pocket/aligned', '-o', 'page.txt'], /name it \.html/],
  ])('%j is refused', (args, message) => {
    const { status, stderr } = attune('report', ...args);
    expect([status, stderr]).toEqual([2, expect.stringMatching(message)]);
  });
});
