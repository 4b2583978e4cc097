/** `attune compose` at a terminal: questions, answers checked at once, and nothing left behind by Ctrl-C. */

import { spawn, spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { PassThrough } from 'node:stream';

import { parseYaml, StackFile } from '@attune/core';
import { AttuneError } from '@attune/engine';
import { describe, expect, test } from 'vitest';

import { Dialogue } from '../src/compose/dialogue.ts';

const bin = resolve('packages/cli/bin/attune.js');
const composed = resolve('test/parity/fixtures/compose/pocket');
const backbone = resolve('test/parity/fixtures/unet/pocket');
const hasScript = spawnSync('script', ['--version']).status === 0;

/** A folder with two adapters, a file that is none, and an archive that is refused. */
function place(): string {
  const folder = mkdtempSync(join(tmpdir(), 'asked-'));
  const found = join(folder, 'found');
  cpSync(`${composed}/edit`, join(found, 'edit'), { recursive: true });
  cpSync(`${composed}/look.safetensors`, join(found, 'look.safetensors'));
  writeFileSync(join(found, 'notes.txt'), 'nothing');
  writeFileSync(join(folder, 'taken.yaml'), 'mine');
  return folder;
}

/** Runs the built command at a pseudo-terminal; `keys` are sent when the text before them has been shown. */
function atTerminal(
  folder: string,
  args: readonly string[],
  keys: readonly (readonly [seen: string, send: string])[],
): Promise<{ status: number | null; shown: string }> {
  const command = [process.execPath, bin, 'compose', ...args].map((one) => `'${one}'`).join(' ');
  const child = spawn('script', ['-qec', command, '/dev/null'], { cwd: folder });
  const left = [...keys];
  let [shown, from] = ['', 0];
  const look = (chunk: Buffer): void => {
    shown += chunk.toString();
    for (let next = left[0]; next; next = left[0]) {
      const at = shown.indexOf(next[0], from);
      if (at < 0) return;
      from = at + next[0].length;
      left.shift();
      child.stdin.write(next[1]);
    }
  };
  child.stdout.on('data', look);
  return new Promise((settle) => child.on('close', (status) => settle({ status, shown })));
}

describe.skipIf(!hasScript)('at a terminal', () => {
  test('asks for everything, refuses at once what does not do, and writes the stack', async () => {
    const folder = place();
    const { status, shown } = await atTerminal(
      folder,
      ['--no-proof'],
      [
        ['[pocket]:', 'nowhere\r'],
        ['nowhere', ''],
        ['[pocket]:', `${backbone}\r`],
        ['no more):', 'gone\r'],
        ['gone does not exist', ''],
        ['no more):', 'found\r'],
        ['1  edit  edit', ''],
        ['2  look.safetensors  lora', ''],
        ['none):', '3\r'],
        ['numbers from 1 to 2', ''],
        ['none):', '2 1\r'],
        ['Strength of look.safetensors [1]:', 'strong\r'],
        ['no finite number', ''],
        ['[1]:', '0.5\r'],
        ['Strength of edit [1]:', '\r'],
        ['no more):', '\r'],
        ['this one):', '2 1\r'],
        ['[stack.yaml]:', 'taken.yaml\r'],
        ['taken.yaml exists', ''],
        ['[stack.yaml]:', '\r'],
      ],
    );
    expect(shown).toContain('wrote stack.yaml with its lock');
    expect(status).toBe(0);
    const file = join(folder, 'stack.yaml');
    const { adapters } = parseYaml(StackFile, readFileSync(file, 'utf8'), file);
    expect(adapters).toEqual([
      { use: 'edit', from: 'found/edit' },
      { use: 'lora', from: 'found/look.safetensors', strength: 0.5 },
    ]);
    expect(existsSync(join(folder, 'stack.lock.json'))).toBe(true);
  }, 120_000);

  test('Ctrl-C leaves nothing', async () => {
    const folder = place();
    const before = readdirSync(folder);
    const { status, shown } = await atTerminal(
      folder,
      [backbone],
      [
        ['no more):', 'found\r'],
        ['none):', '\u0003'],
      ],
    );
    expect(shown).toContain('stopped; nothing was written');
    expect(status).toBe(1);
    expect(readdirSync(folder)).toEqual(before);
  }, 120_000);
});

test('without a terminal it says what to name', () => {
  for (const args of [[], [backbone]]) {
    const { status, stderr } = spawnSync(process.execPath, [bin, 'compose', ...args], {
      encoding: 'utf8',
      input: '',
    });
    expect(status).toBe(2);
    expect(stderr).toMatch(/attune compose BASE \[adapters…\] --out stack\.yaml/);
    expect(stderr.trim().split('\n')).toHaveLength(1);
  }
});

const terminal = () => ({ input: new PassThrough(), output: new PassThrough() });

const digit = (text: string): number => {
  if (/^\d$/.test(text)) return Number(text);
  throw new AttuneError('BAD_ARGUMENT', `"${text}" is no digit.`);
};

describe('a dialogue', () => {
  test('keeps what is typed ahead, and asks again after an answer that does not do', async () => {
    const { input, output } = terminal();
    const asked = Dialogue.with(
      async (dialogue) => {
        return [await dialogue.ask('One:', digit), await dialogue.ask('Two:', digit)];
      },
      { input, output },
    );
    input.end('one\n1\n2\n');
    expect(await asked).toEqual([1, 2]);
    expect(String(output.read())).toContain('"one" is no digit.');
  });

  test('ends where nothing more comes', async () => {
    const { input, output } = terminal();
    const asked = Dialogue.with((dialogue) => dialogue.ask('One:', (text) => text), {
      input,
      output,
    });
    input.end();
    await expect(asked).rejects.toThrow('stopped; nothing was written');
  });
});
