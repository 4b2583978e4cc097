/** Places that cannot be written: refused with one message before anything is opened, nothing touched. */

import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { describe, expect, test } from 'vitest';

import { at, attune, refused } from './bad-scene.ts';

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
    refused(attune(...edited, '--max-frames', '1'), 2, /nothing does not exist/);
    const made = ['generate', 'a cat', '--stack', 'nothing', '--frames', '2', '-o', 'still.jpg'];
    refused(attune(...made), 2, /a clip does not fit into a still/);
    for (const name of ['report', 'report.txt', 'report.json.gz'])
      refused(attune('eval', 'nothing', '--out', name), 2, /name it \.json or \.md/);
  });
});
