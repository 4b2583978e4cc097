/** The README's commands, as they stand there, run by the built command in an empty folder. */

import { spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { openSafetensors } from '@attune/engine';
import sharp from 'sharp';
import { expect, test } from 'vitest';

const bin = resolve('packages/cli/bin/attune.js');
const readme = readFileSync('README.md', 'utf8');

/** The commands of the block under `<!-- run: name -->`, each as its words. */
function commandsOf(name: string): string[][] {
  const block = new RegExp(`<!-- run: ${name} -->\\s*\`\`\`sh\\n([^\`]*)\`\`\``).exec(readme);
  if (!block) throw new Error(`README.md has no block "${name}"`);
  return block[1]
    .replaceAll('\\\n', ' ')
    .split('\n')
    .filter((line) => line.startsWith('attune '))
    .map((line) =>
      (line.match(/"[^"]*"|\S+/g) ?? []).slice(1).map((word) => word.replaceAll('"', '')),
    );
}

/** The block under `<!-- file: name -->`. */
function fileOf(name: string): string {
  const block = new RegExp(`<!-- file: ${name} -->\\s*\`\`\`\\w+\\n([^\`]*)\`\`\``).exec(readme);
  if (!block) throw new Error(`README.md has no file "${name}"`);
  return block[1];
}

/** Runs a block in a folder in which only the project's packages are. */
function run(name: string, folder = mkdtempSync(join(tmpdir(), 'readme-'))): string {
  symlinkSync(resolve('packages'), join(folder, 'packages'));
  const commands = commandsOf(name);
  expect(commands.length).toBeGreaterThan(1);
  for (const words of commands) {
    const { status, stderr } = spawnSync(process.execPath, [bin, ...words], {
      cwd: folder,
      encoding: 'utf8',
      timeout: 300_000,
    });
    expect(stderr).not.toMatch(/\n\s+at |unexpected:/);
    expect(status, `${words.join(' ')}\n${stderr}`).toBe(0);
  }
  return folder;
}

/** RGB of the right half (the result beside its input) of the last frame, in [0, 255]. */
async function result(file: string): Promise<{ data: Buffer; frames: number }> {
  const {
    width,
    height,
    pages = 1,
    pageHeight = height,
  } = await sharp(file, { animated: true }).metadata();
  const data = await sharp(file, { page: pages - 1 })
    .extract({
      left: Math.floor(width / 2),
      top: 0,
      width: Math.floor(width / 2),
      height: pageHeight,
    })
    .removeAlpha()
    .raw()
    .toBuffer();
  return { data, frames: pages };
}

/** Mean distance of a pixel from grey: line art has hardly any colour. */
function colourful(data: Buffer): number {
  let sum = 0;
  for (let i = 0; i < data.length; i += 3) {
    const [r, g, b] = data.subarray(i, i + 3);
    sum += Math.max(r, g, b) - Math.min(r, g, b);
  }
  return sum / (data.length / 3);
}

/** A project in which the README's package is installed, as a link to its folder. */
function projectWithPlugin(): string {
  const folder = mkdtempSync(join(tmpdir(), 'readme-'));
  mkdirSync(join(folder, 'attune-gain'));
  mkdirSync(join(folder, 'node_modules', '@attune'), { recursive: true });
  for (const name of ['attune-gain/package.json', 'attune-gain/index.js', 'gain.yaml'])
    writeFileSync(join(folder, name), fileOf(name));
  writeFileSync(join(folder, 'package.json'), '{ "dependencies": { "attune-gain": "*" } }');
  const links = {
    '@attune/core': resolve('packages/core'),
    '@attune/engine': resolve('packages/engine'),
    zod: resolve('node_modules/zod'),
    'attune-gain': join(folder, 'attune-gain'),
  };
  for (const [name, target] of Object.entries(links))
    symlinkSync(target, join(folder, 'node_modules', name));
  return folder;
}

test('an adapter of a kind of its own', { timeout: 300_000 }, async () => {
  const folder = run('plugin', projectWithPlugin());
  expect(readFileSync(join(folder, 'stack.yaml'), 'utf8')).toContain('use: acme/gain');
  const gains = openSafetensors(join(folder, 'runs/gain/best/gain.safetensors'));
  expect(gains.tensors.size).toBe(10);
  for (const name of gains.tensors.keys())
    expect([...(gains.read(name).data as Float32Array)].some((x) => Math.abs(x) > 1e-3)).toBe(true);
});

test('edit + LoRA on a picture', { timeout: 300_000 }, async () => {
  const folder = run('picture');
  const { data } = await result(join(folder, 'sketched.png'));
  const before = await sharp(join(folder, 'lion.png')).removeAlpha().raw().toBuffer();
  expect(colourful(before)).toBeGreaterThan(60);
  expect(colourful(data)).toBeLessThan(30);
});

test('edit + video + LoRA on a clip', { timeout: 600_000 }, async () => {
  const folder = run('clip');
  const { data, frames } = await result(join(folder, 'sketched.webp'));
  expect(frames).toBe(8);
  expect(colourful(data)).toBeLessThan(40);
  expect(existsSync(join(folder, 'attune-demo', 'index.html'))).toBe(true);
});
