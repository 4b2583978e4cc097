/**
 * An artist's journey: a model, a motion module, an instruction ControlNet and a LoRA get a verdict each, are
 * composed, and edit a picture and a clip. From the disk, and from a hub by docs/real-models.md: its commands, as
 * they stand there, against a hub that serves small models under the names of the real ones.
 */

import { spawn } from 'node:child_process';
import {
  cpSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import sharp from 'sharp';
import { afterAll, beforeAll, expect, test } from 'vitest';

import { writeMedia } from '../../packages/cli/src/media/index.ts';
import { HubStub, type StubFile } from '../../packages/cli/test/hub-stub.ts';

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

/** A folder with a photo and a clip of four frames. */
async function studio(): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'studio-'));
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
  return folder;
}

const pixels = (file: string | Buffer) => sharp(file).raw().toBuffer();

test('from the disk: a verdict each, a stack, a picture and a clip, and the stack elsewhere', async () => {
  const folder = await studio();
  const fixtures = resolve('test/parity/fixtures');
  const models = join(folder, 'models');
  cpSync(`${fixtures}/unet/pocket`, join(models, 'sd'), { recursive: true });
  for (const name of ['edit', 'video'])
    cpSync(`${fixtures}/compose/pocket/${name}`, join(models, name), { recursive: true });
  const sketch = `${fixtures}/compose/pocket/look.kohya.safetensors`;
  cpSync(sketch, join(models, 'sketch.safetensors'));
  writeFileSync(join(models, 'cut.safetensors'), readFileSync(sketch).subarray(0, 5000));

  const good = async (...words: readonly string[]): Promise<string> => {
    const { status, stdout, stderr } = await run(words, folder);
    expect(stderr).not.toMatch(/unexpected:/);
    expect(status, `${words.join(' ')}\n${stderr}`).toBe(0);
    return stdout;
  };
  const kinds = { sd: 'model', edit: 'edit', video: 'video', 'sketch.safetensors': 'lora' };
  for (const [name, kind] of Object.entries(kinds)) {
    const base = name === 'sd' ? [] : ['--base', 'models/sd'];
    const verdict = await good('inspect', `models/${name}`, ...base);
    expect(verdict).toMatch(new RegExp(`: loadable\\n +kind +${kind}`));
    expect(verdict).not.toMatch(/[1-9]\d* (unmatched|misshaped)/);
  }
  const cut = await run(['inspect', 'models/cut.safetensors'], folder);
  expect([cut.status, cut.stderr]).toEqual([2, expect.stringMatching(/refused: .*Way out: /)]);

  const adapters = ['models/edit', 'models/video', 'look=models/sketch.safetensors@0.8'];
  const told = await good('compose', 'models/sd', ...adapters, '-o', 'stack.yaml');
  for (const name of ['edit', 'video', 'look'])
    expect(told).toMatch(new RegExp(`^${name} .* changes the output by `, 'm'));
  expect(told).toMatch(/edit\.image +input\n +edit\.encoder_hidden_states +instruction/);

  const words = ['-i', 'make it winter', '--caption', 'a house in the snow', '--steps', '2'];
  const edit = async (from: string, out: string): Promise<Buffer> => {
    await good('edit', from, ...words, '--stack', 'stack.yaml', '--frozen', '-o', out);
    return readFileSync(join(folder, out));
  };
  const winter = await edit('photo.png', 'winter.png');
  expect(await good('inspect', 'winter.png')).toMatch(/instruction +make it winter/);
  const { pages, delay } = await sharp(await edit('clip.mp4', 'winter.webp')).metadata();
  expect({ pages, delay }).toEqual({ pages: 4, delay: [100, 100, 100, 100] });

  // Carried elsewhere it is the same stack; with another file it is not.
  renameSync(models, join(folder, 'away'));
  cpSync(join(folder, 'stack.lock.json'), join(folder, 'moved.lock.json'));
  const text = readFileSync(join(folder, 'stack.yaml'), 'utf8');
  writeFileSync(join(folder, 'moved.yaml'), text.replaceAll('models/', 'away/'));
  await good('edit', 'photo.png', ...words, '--stack', 'moved.yaml', '--frozen', '-o', 'again.png');
  expect((await pixels(join(folder, 'again.png'))).equals(await pixels(winter))).toBe(true);
  cpSync(`${fixtures}/compose/pocket/look.safetensors`, join(folder, 'away', 'sketch.safetensors'));
  const other = [
    'edit',
    'photo.png',
    ...words,
    '--stack',
    'moved.yaml',
    '--frozen',
    '-o',
    'no.png',
  ];
  const drifted = await run(other, folder);
  expect([drifted.status, drifted.stderr]).toEqual([
    2,
    expect.stringMatching(/adapters\.look\.files/),
  ]);
}, 400_000);

test('from a hub: every command of the page, in order, in an empty folder', async () => {
  const folder = await studio();
  for (const name of ['clips.yaml', 'align.yaml']) writeFileSync(join(folder, name), fileOf(name));
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
): Promise<{ status: number | null; stdout: string; stderr: string }> {
  const child = spawn(process.execPath, [resolve('packages/cli/bin/attune.js'), ...words], {
    cwd: folder,
    env: { ...process.env, HF_ENDPOINT: stub.endpoint, HF_HOME: join(folder, 'home') },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let [stdout, stderr] = ['', ''];
  child.stdout.on('data', (text) => (stdout += text));
  child.stderr.on('data', (text) => (stderr += text));
  return new Promise((done) => {
    child.on('close', (status) => done({ status, stdout, stderr }));
  });
}
