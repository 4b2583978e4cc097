/**
 * docs/real-models.md: its commands, as they stand there, against a hub that serves small models under the names
 * of the real ones.
 */

import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import sharp from 'sharp';
import { afterAll, beforeAll, expect, test } from 'vitest';

import { writeMedia } from '../packages/cli/src/media/index.ts';
import { HubStub, type StubFile } from '../packages/cli/test/hub-stub.ts';

const page = readFileSync('docs/real-models.md', 'utf8');
const stub = new HubStub();

/** A fixture as a repository; `rename` gives its files the names that the real one has. */
function repository(path: string, rename = (name: string) => name) {
  const folder = resolve('test/parity/fixtures', path);
  const names = statSync(folder).isFile()
    ? ['']
    : readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) =>
        statSync(join(folder, name)).isFile(),
      );
  const files = names.map((name): [string, StubFile] => [
    rename(name),
    { bytes: readFileSync(join(folder, name)), lfs: !name.endsWith('.json') },
  ]);
  return { commit: 'dead'.padEnd(40, '2'), names: ['main'], files: Object.fromEntries(files) };
}

const half = (name: string) => name.replace(/\.safetensors$/, '.fp16.safetensors');

beforeAll(async () => {
  await stub.start();
  stub.repos['stable-diffusion-v1-5/stable-diffusion-v1-5'] = repository('unet/pocket', half);
  stub.repos['guoyww/animatediff-motion-adapter-v1-5-2'] = repository('compose/pocket/video', half);
  stub.repos['lllyasviel/control_v11e_sd15_ip2p'] = repository('compose/pocket/edit', half);
  stub.repos['sayakpaul/civitai-light-shadow-lora'] = repository(
    'compose/pocket/look.kohya.safetensors',
    () => 'light_and_shadow.safetensors',
  );
});
afterAll(() => stub.stop());

/** The commands of all blocks, in order, each as its words. */
const commands = [...page.matchAll(/```sh\n([^`]*)```/g)].flatMap(([, block]) =>
  block
    .trim()
    .split('\n')
    .map((line) => (line.match(/"[^"]*"|\S+/g) ?? []).map((word) => word.replaceAll('"', ''))),
);

const fileOf = (name: string): string =>
  new RegExp(`<!-- file: ${name} -->\\s*\`\`\`yaml\\n([^\`]*)\`\`\``).exec(page)![1];

test('every command of the page, in order, in an empty folder', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'real-'));
  for (const name of ['clips.yaml', 'align.yaml']) writeFileSync(join(folder, name), fileOf(name));
  const frames = Array.from({ length: 4 }, (_, n) => ({
    width: 64,
    height: 64,
    data: new Uint8Array(64 * 64 * 3).fill(60 + 40 * n),
    delay: 100,
  }));
  await sharp(frames[0].data, { raw: { width: 64, height: 64, channels: 3 } })
    .png()
    .toFile(join(folder, 'photo.png'));
  await writeMedia(join(folder, 'clip.mp4'), frames);
  expect(commands.map(([, command]) => command)).toEqual(
    expect.arrayContaining(['pull', 'inspect', 'compose', 'edit', 'distill']),
  );
  for (const [program, ...words] of commands) {
    expect(program).toBe('attune');
    const before = stub.seen.length;
    const { status, stderr } = await run(words, folder);
    expect(status, `${words.join(' ')}\n${stderr}`).toBe(0);
    expect(stderr).not.toMatch(/unexpected:/);
    // Nothing but pull asks the hub for anything.
    if (words[0] !== 'pull') expect(stub.seen.length).toBe(before);
  }
  expect(statSync(join(folder, 'winter.mp4')).size).toBeGreaterThan(0);
}, 400_000);

function run(
  words: readonly string[],
  folder: string,
): Promise<{ status: number | null; stderr: string }> {
  const child = spawn(process.execPath, [resolve('packages/cli/bin/attune.js'), ...words], {
    cwd: folder,
    env: { ...process.env, HF_ENDPOINT: stub.endpoint, HF_HOME: join(folder, 'home') },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let stderr = '';
  child.stderr.on('data', (text) => (stderr += text));
  return new Promise((done) => {
    child.on('close', (status) => done({ status, stderr }));
  });
}
