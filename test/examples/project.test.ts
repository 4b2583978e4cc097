/** Both example plugins packed, laid into an empty project as npm does, and used by the built command there. */

import { spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import sharp from 'sharp';
import { beforeAll, describe, expect, test } from 'vitest';
import { stringify } from 'yaml';

const packages = ['attune-heun-sampler', 'attune-ip-adapter'];
const fixtures = resolve('test/parity/fixtures');
const backbone = `${fixtures}/unet/pocket`;
const others = `${fixtures}/compose/pocket`;
const picture = `${fixtures}/ip-adapter/base.safetensors`;
let project = '';

const clip = (): string => join(project, 'clip');

const run = (command: string, args: readonly string[], cwd: string) => {
  const { status, stdout, stderr } = spawnSync(command, args, {
    cwd,
    encoding: 'utf8',
    timeout: 120_000,
  });
  return { status, stdout, stderr };
};

function attune(...args: readonly string[]) {
  const done = run(process.execPath, [resolve('packages/cli/bin/attune.js'), ...args], project);
  expect(done.stderr).not.toMatch(/\n\s+at |unexpected:/);
  return done;
}

beforeAll(() => {
  project = mkdtempSync(join(tmpdir(), 'project-'));
  const modules = join(project, 'node_modules');
  mkdirSync(join(modules, '@attune'), { recursive: true });
  for (const name of ['@attune/core', '@attune/engine', 'zod'])
    symlinkSync(realpathSync(join('node_modules', name)), join(modules, name));
  for (const name of packages) {
    const packed = run(
      'npm',
      ['pack', '--silent', '--pack-destination', project],
      `examples/${name}`,
    );
    if (packed.status !== 0) throw new Error(packed.stderr);
    const folder = join(modules, name);
    mkdirSync(folder);
    const file = join(project, packed.stdout.trim());
    const laid = run('tar', ['-xzf', file, '-C', folder, '--strip-components=1'], '.');
    if (laid.status !== 0) throw new Error(laid.stderr);
  }
  writeFileSync(
    join(project, 'package.json'),
    JSON.stringify({ dependencies: Object.fromEntries(packages.map((name) => [name, '*'])) }),
  );
}, 120_000);

/** Edit, video, a LoRA and a picture as a prompt; sampled as `sampling` says. */
function stackFile(name: string, sampling: object, strength = 0.6): string {
  const file = join(project, name);
  const adapters = [
    { use: 'video', from: `${others}/video` },
    { use: 'edit', from: `${others}/edit` },
    { use: 'lora', from: `${others}/look.safetensors`, strength: 0.5 },
    { use: 'ip-adapter', from: picture, image_encoder: 'image_encoder', strength },
  ];
  writeFileSync(file, stringify({ backbone, adapters, sampling }));
  return file;
}

const bytesIn = (folder: string): Buffer[] =>
  readdirSync(folder)
    .toSorted()
    .map((name) => readFileSync(join(folder, name)));

test('each package is what it says: a plugin, a readme, a licence', () => {
  for (const name of packages) {
    const folder = join(project, 'node_modules', name);
    expect(existsSync(join(folder, 'README.md'))).toBe(true);
    const json = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as {
      license: string;
      private?: boolean;
    };
    expect([json.license, json.private]).toEqual(['Apache-2.0', undefined]);
  }
});

test('inspect knows a file of the new kind, and compose stacks it', () => {
  const verdict = attune('inspect', picture, '--base', backbone);
  expect([verdict.status, verdict.stdout]).toEqual([0, expect.stringMatching(/ip-adapter base/)]);
  const out = join(project, 'composed.yaml');
  const { status, stdout } = attune(
    'compose',
    backbone,
    `face=${picture}@0.7`,
    '-o',
    out,
    '--json',
  );
  expect(status).toBe(0);
  const { adapters } = JSON.parse(stdout) as { adapters: { name: string; parameters: number }[] };
  expect(adapters.map(({ name }) => name)).toEqual(['face']);
  expect(adapters[0].parameters).toBeGreaterThan(0);
});

const edit = (stack: string, out: string, ...rest: readonly string[]) =>
  attune(
    'edit',
    clip(),
    '-i',
    'make it golden',
    '-o',
    join(project, out),
    '--stack',
    stack,
    ...rest,
  );

describe('with edit, video and a LoRA', () => {
  beforeAll(async () => {
    mkdirSync(clip());
    for (let i = 0; i < 3; i++)
      await sharp({
        create: { width: 64, height: 64, channels: 3, background: { r: 80 * i, g: 90, b: 200 } },
      })
        .png()
        .toFile(join(clip(), `${i}.png`));
  });

  test('a clip is edited by the stack, by its sampler or by another that the command names', () => {
    const stack = stackFile('heun.yaml', {
      steps: 3, // of the three the first and the last are DDIM's here
      sampler: { use: 'heun', spacing: 'trailing' },
    });
    expect(edit(stack, 'heun')).toMatchObject({ status: 0 });
    expect(edit(stack, 'again')).toMatchObject({ status: 0 });
    expect(edit(stack, 'ddim', '--sampler', 'ddim')).toMatchObject({ status: 0 });
    expect(edit(stack, 'lcm', '--sampler', 'lcm')).toMatchObject({ status: 0 });
    const plain = stackFile('without.yaml', { steps: 3 }, 0);
    expect(edit(plain, 'without')).toMatchObject({ status: 0 });
    const [heun, again, ddim, lcm, without] = ['heun', 'again', 'ddim', 'lcm', 'without'].map(
      (name) => bytesIn(join(project, name)),
    );
    expect(heun).toHaveLength(3);
    expect(again).toEqual(heun);
    expect(ddim).not.toEqual(heun);
    expect(lcm).not.toEqual(heun);
    expect(lcm).not.toEqual(ddim);
    expect(without).not.toEqual(ddim);
  }, 120_000);

  test.each<readonly [string, object, readonly string[], RegExp]>([
    [
      'a sampler that nobody has',
      { steps: 2 },
      ['--sampler', 'hein'],
      /samplers "hein".*nearest: heun/,
    ],
    [
      'a misspelled option of one',
      { sampler: { use: 'heun', karass: true } },
      [],
      /did you mean "karras"/,
    ],
    ['more steps than one can take', { steps: 60, sampler: 'lcm' }, [], /original grid/],
  ])('%s: exit 2, one message, nothing written', (name, sampling, rest, message) => {
    const out = `refused-${name.length}`;
    const { status, stderr } = edit(stackFile(`${out}.yaml`, sampling), out, ...rest);
    expect([status, stderr]).toEqual([2, expect.stringMatching(message)]);
    expect(stderr.trim().split('\n')).toHaveLength(1);
    expect(existsSync(join(project, out))).toBe(false);
  });

  test('words alone, by a plugin’s sampler', () => {
    const out = join(project, 'cat.png');
    const said = attune(
      'generate',
      'a cat',
      '-o',
      out,
      '--stack',
      backbone,
      '--steps',
      '2',
      '--sampler',
      'heun',
    );
    expect([said.status, existsSync(out)]).toEqual([0, true]);
  });
});
