/** `--strength` of the built command: the grammar of stack files, in place of what the stack says. */

import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative, resolve } from 'node:path';

import { parseYaml, StackFile, StrengthEntry } from '@attune/core';
import { Rng, Weights, writeSafetensors } from '@attune/engine';
import sharp from 'sharp';
import { beforeAll, describe, expect, test } from 'vitest';
import { stringify } from 'yaml';

import { attune } from '../../../test/attune.ts';
import { collectStrength, withStrengths } from '../src/strengths.ts';
import { commanded } from './hostile-scene.ts';

const folder = mkdtempSync(join(tmpdir(), 'strengths-'));
const at = (...names: readonly string[]) => join(folder, ...names);
const fixture = (name: string) => relative(folder, resolve('test/parity/fixtures', name));

/** An editor and a LoRA, with strengths of their own. */
function stack(name: string, strengths: { edit?: unknown; lora?: unknown } = {}): string {
  const adapters = [
    { use: 'edit', from: fixture('compose/pocket/edit'), strength: strengths.edit },
    { use: 'lora', from: fixture('compose/pocket/look.safetensors'), strength: strengths.lora },
  ];
  writeFileSync(at(name), stringify({ backbone: fixture('unet/pocket'), adapters }));
  return at(name);
}

const strengthArguments = (said: readonly string[]) => said.flatMap((one) => ['--strength', one]);

const done = (...args: readonly string[]): string => {
  const { status, stdout, stderr } = attune(...args);
  expect(`${status}${status === 0 ? '' : stderr}`).toBe('0');
  return stdout;
};

const edited = async (name: string, file: string, ...said: readonly string[]) => {
  const args = ['edit', at('red.png'), '-i', 'make it golden', '--stack', file, '--steps', '2'];
  const out = ['-o', at(`${name}.png`), ...strengthArguments(said)];
  expect(await commanded(...args, ...out)).toMatchObject({ status: 0 });
  return sharp(at(`${name}.png`))
    .removeAlpha()
    .raw()
    .toBuffer();
};

const picture = (width: number, height: number, background: string) =>
  sharp({ create: { width, height, channels: 3, background } });

beforeAll(async () => {
  const white = await picture(32, 64, 'white').png().toBuffer();
  await picture(64, 64, 'red')
    .composite([{ input: white, left: 0, top: 0 }])
    .png()
    .toFile(at('red.png'));
  await picture(64, 64, 'black')
    .composite([{ input: white, left: 0, top: 0 }])
    .png()
    .toFile(at('left.png'));
});

test.each<[string, readonly string[], { edit?: unknown; lora?: unknown }]>([
  [
    'numbers and addresses, one after another',
    ['lora={ unet: 0.1 }', 'lora.unet=0.3', 'edit.unet.mid_block=0.2'],
    { lora: { unet: 0.3 }, edit: { default: 0.8, 'unet.mid_block': 0.2 } },
  ],
  [
    'all of the grammar, with a mask from where the command is run',
    [
      'lora.unet.up_blocks.1={ during: [0, 0.5] }',
      `edit={ default: { steps: [1, 0.5] }, unet.skips: { mask: ${at('left.png')} } }`,
    ],
    {
      lora: { default: 1, 'unet.up_blocks.1': { during: [0, 0.5] } },
      edit: { default: { steps: [1, 0.5] }, 'unet.skips': { mask: 'left.png' } },
    },
  ],
])(
  '%s go before what the stack says',
  async (name, said, strengths) => {
    const own = stack('own.yaml', { edit: 0.8 });
    const typed = await edited(`${name} typed`, own, ...said);
    expect(typed.equals(await edited(`${name} in a file`, stack('file.yaml', strengths)))).toBe(
      true,
    );
    expect(typed.equals(await edited('plain', own))).toBe(false);
    const { madeWith } = JSON.parse(done('inspect', at(`${name} typed.png`), '--json')) as {
      madeWith: { strengths: string };
    };
    expect(JSON.parse(madeWith.strengths)).toEqual(said);
  },
  120_000,
);

test('whatever a stack file may say can be typed, at every address', () => {
  const rng = Rng.of(5);
  const numbers = (most: number) => Array.from({ length: 1 + rng.int(most) }, () => rng.normal());
  const value = (): unknown => {
    const all = {
      scale: rng.normal(),
      during: [0, rng.uniform()],
      steps: numbers(3),
      frames: numbers(3),
      mask: 'a folder/left: right.png',
    };
    const kept = Object.entries(all).filter(() => rng.uniform() < 0.5);
    return kept.length === 0 ? rng.normal() : Object.fromEntries(kept);
  };
  const addresses = ['unet', 'unet.up_blocks.1', 'video.down_blocks.0.motion_modules.0', 'default'];
  for (let i = 0; i < 200; i++) {
    const strength =
      rng.uniform() < 0.5 ? value() : Object.fromEntries(addresses.map((key) => [key, value()]));
    const [address] = rng.uniform() < 0.5 ? addresses.slice(rng.int(4)) : [undefined];
    const own = address === undefined ? strength : value();
    const given = collectStrength(
      `look${address === undefined ? '' : `.${address}`}=${JSON.stringify(own)}`,
      [],
    );
    const file = parseYaml(StackFile, 'backbone: x\nadapters: [{ use: lora, name: look }]', 'file');
    const [{ adapters }] = withStrengths([file], given, (mask) => mask);
    expect(adapters[0].strength).toEqual(
      address === undefined ? own : { default: 1, ...(address && { [address]: own }) },
    );
    expect(StrengthEntry.parse(adapters[0].strength)).toEqual(adapters[0].strength);
  }
});

const plain = () => stack('plain.yaml');

describe('every command that runs a stack takes it', () => {
  test('compose writes it, with its masks beside the stack, for adapters it adds, too', () => {
    mkdirSync(at('sub'), { recursive: true });
    const out = at('sub', 'out.yaml');
    const look = `look=${resolve('test/parity/fixtures/compose/pocket/look.safetensors')}@0.9`;
    const said = ['look.unet.mid_block=0.5', `edit={ mask: ${at('left.png')} }`];
    done('compose', plain(), look, '-o', out, '--no-proof', ...strengthArguments(said));
    const { adapters } = parseYaml(StackFile, readFileSync(out, 'utf8'), out);
    expect(adapters.map(({ strength }) => strength)).toEqual([
      { mask: '../left.png' },
      undefined,
      { default: 0.9, 'unet.mid_block': 0.5 },
    ]);
    done('compose', out, '--check', '--no-proof', '--frozen');
  });

  test('probe and report do what a stack file with the same strength does', () => {
    const half = stack('half.yaml', { edit: 0, lora: 0.5 });
    const said = strengthArguments(['lora=0.5', 'edit=0']);
    const inputs = at('in.safetensors');
    const rng = Rng.of(2);
    writeSafetensors(inputs, {
      sample: rng.fork('x').normals([1, 4, 8, 8]),
      timestep: { dtype: 'f32', shape: [1], data: new Float32Array([500]) },
      encoder_hidden_states: rng.fork('text').normals([1, 4, 24]),
    });
    const both = (run: (file: string, name: string, more: readonly string[]) => unknown) => {
      expect(run(plain(), 'typed', said)).toEqual(run(half, 'file', []));
      expect(run(plain(), 'typed', said)).not.toEqual(
        run(stack('one.yaml', { edit: 0 }), 'one', []),
      );
    };
    both((file, name, more) => {
      const out = at(`${name}.out.safetensors`);
      done('probe', file, '--inputs', inputs, '--out', out, ...more);
      return Weights.fromFile(out).entry('sample').load();
    });
    both((file, _, more) => {
      const found = JSON.parse(done('report', file, '--json', ...more)) as object;
      return { ...found, stack: '' };
    });
  }, 120_000);

  test('export makes it part of the model; as an input, other values are the same bytes', async () => {
    const exported = async (name: string, ...more: readonly string[]) => {
      const args = ['export', plain(), '-o', at(name), '--frames', '1', ...more];
      expect(await commanded(...args)).toMatchObject({ status: 0 });
      return readFileSync(at(name, 'unet.onnx'));
    };
    const half = await exported('half', '--strength', 'lora=0.5');
    expect(readFileSync(at('half', 'manifest.json'), 'utf8')).toMatch(/"strength": 0\.5/);
    expect(half.equals(await exported('third', '--strength', 'lora=0.3'))).toBe(false);
    const live = (name: string, value: string) =>
      exported(name, '--live-strengths', '--strength', value);
    const first = await live('live-half', 'lora={ scale: 0.5, frames: [1, 2] }');
    expect(first.equals(await live('live-third', 'lora={ scale: 0.3, frames: [4] }'))).toBe(true);
  }, 120_000);

  test('of several stacks, those that have the adapter', () => {
    const stacks = [['video'], ['video', 'align']].map((names) =>
      StackFile.parse({ backbone: 'x', adapters: names.map((name) => ({ use: 'lora', name })) }),
    );
    const given = collectStrength('align=0.5', collectStrength('video=2', []));
    const strengths = withStrengths(stacks, given, (mask) => mask).map(({ adapters }) =>
      adapters.map(({ strength }) => strength),
    );
    expect(strengths).toEqual([[2], [2, 0.5]]);
  });
});

describe('what cannot be is refused with one message', () => {
  test.each<[string, RegExp]>([
    ['lroa=0.5', /--strength lroa: the stack has edit, lora; did you mean lora\?/],
    ['lora=soon', /--strength lora=soon: strength: is a number, \{ scale/],
    ['lora=.nan', /strength: is a number/],
    ['lora=0.5\nuse: edit', /unknown key "use"/],
    ['lora={ during: [0, 0.5], scales: 2 }', /unknown key "scales"/],
    ['lora={ during: [0.6, 0.5] }', /during \[0\.6, 0\.5\] is no part of the way/],
    ['lora.unet={ unet: 1 }', /strength: .*unet/],
    ['lora={ mask: gone.png }', /gone\.png/],
  ])('%s', async (said, message) => {
    const args = ['compose', stack('plain.yaml'), '--check', '--no-proof', '--strength', said];
    expect(await commanded(...args)).toEqual({ status: 2, said: expect.stringMatching(message) });
  });

  test.each(['lora', 'lora='])('%s: give an adapter and a number', (said) => {
    const { status, stderr } = attune('report', 'pocket', '--strength', said);
    expect([status, stderr]).toEqual([2, expect.stringMatching(/number, as look=0\.5/)]);
  });

  test.each([['demo'], ['eval', 'pocket', '--stack', 'pocket/plain'], ['report', 'pocket/plain']])(
    'by %s, too',
    async (...args) => {
      const out = args[0] === 'demo' ? ['-o', at('demo')] : [];
      expect(await commanded(...args, ...out, '--strength', 'vido=1')).toEqual({
        status: 2,
        said: expect.stringMatching(/--strength vido: the stack has .*did you mean video\?/),
      });
    },
  );

  test('an address at which nothing acts is warned of', async () => {
    const args = ['export', stack('plain.yaml'), '-o', at('idle'), '--frames', '1'];
    expect(await commanded(...args, '--strength', 'lora.unet.mid_blck=0')).toEqual({
      status: 0,
      said: expect.stringMatching(/strength of lora at unet\.mid_blck changes nothing/),
    });
  }, 60_000);
});
