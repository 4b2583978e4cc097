/** What the built command feeds a stack: routes of the stack file, of `--route`, instructions by adapter. */

import { existsSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative, resolve } from 'node:path';

import { parseYaml, StackFile } from '@attune/core';
import sharp from 'sharp';
import { beforeAll, describe, expect, test } from 'vitest';
import { stringify } from 'yaml';

import { attune } from '../../../test/attune.ts';

const folder = mkdtempSync(join(tmpdir(), 'routes-'));
const at = (...names: readonly string[]) => join(folder, ...names);
const fixture = (name: string) => relative(folder, resolve('test/parity/fixtures', name));

/** Two editors, the second of which may be told something else. */
function stack(name: string, routes: object = {}): string {
  const from = fixture('compose/pocket/edit');
  const adapters = [
    { use: 'edit', from },
    { use: 'edit', name: 'restyle', from },
  ];
  writeFileSync(at(name), stringify({ backbone: fixture('unet/pocket'), adapters, routes }));
  return at(name);
}

const picture = (file: string, colour: string) =>
  sharp({ create: { width: 64, height: 64, channels: 3, background: colour } })
    .composite([{ input: { create: { width: 20, height: 30, channels: 3, background: 'white' } } }])
    .png()
    .toFile(file);

const pixels = (file: string): Promise<Buffer> => sharp(file).removeAlpha().raw().toBuffer();

const edited = async (name: string, stackFile: string, ...more: readonly string[]) => {
  const out = at(`${name}.png`);
  const args = ['edit', at('red.png'), '--stack', stackFile, '--steps', '2', '--guidance', '4'];
  const { status, stderr } = attune(...args, '-o', out, ...more);
  expect(`${status}${status === 0 ? '' : stderr}`).toBe('0');
  return pixels(out);
};

const golden = ['-i', 'make it golden'];

beforeAll(async () => {
  await picture(at('red.png'), 'red');
  await picture(at('blue.png'), 'blue');
});

describe('two editors in one stack', () => {
  test('are told the same, or each its own: by -i, --route or the stack file', async () => {
    const plain = stack('plain.yaml');
    const same = await edited('same', plain, ...golden);
    const own = await edited('own', plain, ...golden, '-i', 'restyle=the cat = blue');
    expect(own.equals(same)).toBe(false);
    const file = stack('own.yaml', {
      'restyle.encoder_hidden_states': { text: 'the cat = blue' },
    });
    expect((await edited('file', file, ...golden)).equals(own)).toBe(true);
    const route = 'restyle.encoder_hidden_states=text:make it golden';
    const both = ['-i', 'edit=make it golden', '--route', route];
    expect((await edited('both', file, ...both)).equals(same)).toBe(true);
    const { stdout } = attune('inspect', at('both.png'), '--json');
    expect(JSON.parse(stdout)).toMatchObject({
      madeWith: {
        instructions: '{"edit":"make it golden"}',
        routes: '{"restyle.encoder_hidden_states":{"text":"make it golden"}}',
      },
    });
  }, 120_000);

  test('and a picture of its own for one', async () => {
    const plain = stack('plain.yaml');
    const own = ['--route', `restyle.image=image:${at('blue.png')}`];
    const one = await edited('one', plain, ...golden, ...own);
    const file = stack('blue.yaml', { 'restyle.image': { image: 'blue.png' } });
    expect((await edited('one-file', file, ...golden)).equals(one)).toBe(true);
    expect(one.equals(await edited('red-twice', plain, ...golden))).toBe(false);
  }, 120_000);
});

describe('compose', () => {
  test('shows what is fed, writes --route with its picture beside the stack, and moves both', () => {
    const plain = stack('plain.yaml');
    mkdirSync(at('sub'), { recursive: true });
    const out = at('sub', 'routed.yaml');
    const routes = [`restyle.image=image:${at('blue.png')}`, 'edit.encoder_hidden_states=caption'];
    const args = routes.flatMap((route) => ['--route', route]);
    const { status, stdout, stderr } = attune('compose', plain, '-o', out, '--no-proof', ...args);
    expect(`${status}${status === 0 ? '' : stderr}`).toBe('0');
    expect(stdout).toContain(
      [
        'fed',
        '  encoder_hidden_states            motion_caption',
        '  edit.image                       input',
        '  edit.encoder_hidden_states       caption (of this stack)',
        '  restyle.image                    the picture ../blue.png (of this stack)',
        '  restyle.encoder_hidden_states    instruction',
      ].join('\n'),
    );
    expect(parseYaml(StackFile, readFileSync(out, 'utf8'), out).routes).toEqual({
      'restyle.image': { image: '../blue.png' },
      'edit.encoder_hidden_states': 'caption',
    });
    const again = attune('compose', out, '--check', '--no-proof', '--frozen', '--json');
    expect(again.status).toBe(0);
    const { routes: told } = JSON.parse(again.stdout) as { routes: object[] };
    expect(told[3]).toEqual({
      port: 'restyle.image',
      source: { image: '../blue.png' },
      as: null,
      given: true,
    });
  });

  test.each([
    ['restyle.imgae=input', /nothing is called restyle\.imgae .*nearest: restyle\.image/],
    ['restyle.image=inptu', /fed inptu, which no run has; take one of input,.*nearest: input/],
    ['restyle.image=caption', /restyle\.image takes a picture, and caption is a text/],
    ['edit.encoder_hidden_states=input', /takes a text, and input is a picture/],
    ['edit.encoder_hidden_states=3', /takes a text, and 3 is the number of a label/],
    ['sample=input', /nothing is called sample/],
    ['restyle.image=image:gone.png', /gone\.png/],
    ['restyle.image', /give a port and a source/],
  ])('--route %s is refused with one message', (route, message) => {
    const { status, stderr } = attune('compose', stack('plain.yaml'), '--check', '--route', route);
    expect([status, stderr]).toEqual([2, expect.stringMatching(message)]);
  });
});

const made = (out: string, ...more: readonly string[]) => {
  const args = ['generate', 'a cat', '--stack', stack('plain.yaml'), '--steps', '2'];
  return attune(...args, '-o', at(out), ...more);
};

describe('in generate', () => {
  test('a port that wants what there is not says so; routed, it runs', async () => {
    const { status, stderr } = made('none.png');
    expect([status, stderr]).toEqual([
      2,
      expect.stringMatching(/edit\.image is fed input, which this run does not have.*--route/),
    ]);
    expect(existsSync(at('none.png'))).toBe(false);
    const [red, blue] = ['red', 'blue'].map((name) => [
      '--route',
      `edit.image=image:${at(`${name}.png`)}`,
      '--route',
      `restyle.image=image:${at(`${name}.png`)}`,
    ]);
    expect(made('from-red.png', ...red).status).toBe(0);
    expect(made('from-blue.png', ...blue).status).toBe(0);
    const [one, other] = await Promise.all([at('from-red.png'), at('from-blue.png')].map(pixels));
    expect(one.equals(other)).toBe(false);
  }, 120_000);
});

test.each([
  ['twice for all', ['-i', 'a', '-i', 'b'], /-i is given twice for all/],
  ['twice for one', ['-i', 'edit=a', '-i', 'edit=b'], /-i is given twice for edit/],
  ['one left out', ['-i', 'edit=a'], /Nothing says what restyle is to change/],
])('an instruction %s: refused, with nothing written', (_, said, message) => {
  const args = ['edit', at('red.png'), '--stack', stack('plain.yaml'), '-o', at('bad.png')];
  const { status, stderr } = attune(...args, ...said);
  expect([status, stderr]).toEqual([2, expect.stringMatching(message)]);
  expect(existsSync(at('bad.png'))).toBe(false);
});
