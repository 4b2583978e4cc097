/** Fixed values are never worth a failure: damaged files, folders that refuse, other processes. */

import { execFile, spawnSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';

import { describe, expect, test } from 'vitest';

import { counting, file, fresh, results, scratch, stored } from './fixed-scene.ts';

describe('a damaged file is recognised and written again:', () => {
  test.each<[string, (path: string, other: string) => void]>([
    ['cut short', (path) => truncateSync(path, statSync(path).size - 4)],
    ['empty', (path) => truncateSync(path, 0)],
    ['no safetensors', (path) => writeFileSync(path, 'hello, world')],
    [
      'one bit',
      (path) => {
        const bytes = readFileSync(path);
        bytes[bytes.length - 1000] ^= 1;
        writeFileSync(path, bytes);
      },
    ],
    ['another value', (path, other) => copyFileSync(other, path)],
    ['deleted', (path) => rmSync(path)],
  ])('%s', async (_, damage) => {
    const folder = fresh();
    const want = await results({ folder });
    const files = stored(folder);
    const sound = files.map((path) => readFileSync(path));
    damage(files[0], files[1]);
    const { runtime, computed } = counting();
    expect(await results({ folder, runtime })).toEqual(want);
    expect(computed()).toBe(1);
    expect(
      stored(folder).map((path) => readFileSync(path).equals(sound[files.indexOf(path)])),
    ).toEqual(files.map(() => true));
  });
});

describe('where the folder refuses', () => {
  const want = results({ folder: undefined });

  test('a file in its place: values stay in their graphs', async () => {
    const folder = join(scratch, 'occupied');
    writeFileSync(folder, '');
    const { runtime, computed } = counting();
    expect(await results({ folder, runtime })).toEqual(await want);
    expect(computed()).toBe(0); // no hash can be kept, so nothing is looked for
  });

  test.skipIf(process.getuid?.() === 0)('a read-only folder: nothing is written', async () => {
    const folder = fresh();
    mkdirSync(folder, { mode: 0o500 });
    expect(await results({ folder })).toEqual(await want);
    expect(readdirSync(folder)).toEqual([]);
    chmodSync(folder, 0o700);
  });

  test('a folder that was filled before and is read-only now is still read', async () => {
    const folder = fresh();
    await results({ folder });
    const [lost] = stored(folder);
    rmSync(lost);
    // A file where a folder would be made again.
    rmSync(dirname(lost), { recursive: true, force: true });
    writeFileSync(dirname(lost), '');
    const { runtime, computed } = counting();
    expect(await results({ folder, runtime })).toEqual(await want);
    expect(computed()).toBe(1);
  });
});

/** What another process prints: its results. */
const child = `
const { FixedValues, OrtRuntime, Program, Rng, Weights, input, linear, mul, param } = await import(process.argv[1]);
const [, , file, folder] = process.argv;
const outputs = { y: linear(input('x', [1, 512]), mul(param('square', [512, 512]), 2)) };
const runtime = new OrtRuntime({ threads: 1, profile: 'mapped' });
const program = new Program({ outputs, marks: [] }, { runtime, weights: Weights.fromFile(file), fixed: new FixedValues(folder || undefined) });
const { y } = await program.run({ x: Rng.of(1).normals([1, 512]) });
console.log(Buffer.from(y.data.buffer).toString('hex'));
`;
const engine = new URL('../../dist/index.js', import.meta.url).href;
const args = (folder: string) => ['--input-type=module', '-e', child, engine, file, folder];

describe('other processes', () => {
  test('at the same time get the same numbers and leave one file', async () => {
    const folder = fresh();
    const run = promisify(execFile);
    const [alone] = [(await run(process.execPath, args(''))).stdout];
    const all = await Promise.all([1, 2, 3].map(() => run(process.execPath, args(folder))));
    for (const { stdout } of all) expect(stdout).toBe(alone);
    expect(stored(folder)).toHaveLength(1);
    expect(readdirSync(folder).toSorted()).toEqual(['hashes', 'values']);
  });

  test.skipIf(process.platform === 'win32')('on a full disk end well', () => {
    const folder = fresh();
    const alone = spawnSync(process.execPath, args(''), { encoding: 'utf8' });
    // No file may grow beyond 128 KiB.
    const full = spawnSync(
      'sh',
      ['-c', 'ulimit -f 256; exec "$0" "$@"', process.execPath, ...args(folder)],
      { encoding: 'utf8' },
    );
    expect(full.stderr).toBe('');
    expect(full.stdout).toBe(alone.stdout);
    expect(stored(folder)).toEqual([]);
    expect(readdirSync(folder).filter((name) => name.startsWith('staged'))).toEqual([]);
  });
});
