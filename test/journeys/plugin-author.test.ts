/** A plugin author's journey, and that of who uses plugins, the examples too: scaffold, test, publish, install, stack, run. */

import { spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { type NDArray, openSafetensors, Rng, writeSafetensors } from '@attune/engine';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { stringify } from 'yaml';

import { done, packWorkspace, type Registry, startRegistry } from '../registry.ts';

const built = resolve('packages/cli/bin/attune.js');
const place = mkdtempSync(join(tmpdir(), 'publish-'));
const [author, user] = [join(place, 'attune-glow'), join(place, 'project')];

/** Plugins of the repository that are no part of the workspace. */
const examples = ['attune-ip-adapter', 'attune-heun-sampler'];
const fixtures = resolve('test/parity/fixtures');
const [backbone, others] = [join(fixtures, 'unet/pocket'), join(fixtures, 'compose/pocket')];
const picture = join(fixtures, 'ip-adapter/base.safetensors');

let registry: Registry;
let tarballs: readonly string[];

beforeAll(async () => {
  tarballs = packWorkspace();
  registry = await startRegistry();
}, 300_000);

afterAll(() => registry?.stop());

interface Run {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** The attune that npm put into the user's project. */
const attune = (...args: readonly string[]): Run =>
  spawnSync(process.execPath, [join(user, 'node_modules/.bin/attune'), ...args], {
    cwd: user,
    encoding: 'utf8',
    timeout: 300_000,
  });

function good(...args: readonly string[]): string {
  const { status, stdout, stderr } = attune(...args);
  expect(stderr).not.toMatch(/\n\s+at |unexpected:/);
  expect(status, `${args.join(' ')}\n${stderr}`).toBe(0);
  return stdout;
}

const tensors = (file: string): Record<string, NDArray> => {
  const opened = openSafetensors(join(user, file));
  return Object.fromEntries([...opened.tensors.keys()].map((name) => [name, opened.read(name)]));
};

describe.sequential('a plugin from nothing to a stack', () => {
  test('what is published names no workspace and no catalog', { timeout: 300_000 }, () => {
    expect(tarballs.length).toBeGreaterThan(9);
    for (const tarball of tarballs) {
      const json = done('tar', ['xzOf', tarball, 'package/package.json'], place);
      expect(json).not.toMatch(/workspace:|catalog:/);
      registry.npm(place, 'publish', tarball);
    }
  });

  test('the author: scaffold, npm test, the checks, npm publish', { timeout: 600_000 }, () => {
    done(process.execPath, [built, 'plugin', 'new', 'attune-glow', '--scope', 'acme'], place);
    registry.npm(author, 'install', '--ignore-scripts');
    registry.npm(author, 'test');
    const checks = registry.npm(author, 'run', 'check');
    expect(checks).toMatch(/ok +manifest +api 1; adapters acme\/glow; capabilities: none/);
    expect(checks).toMatch(/acme\/glow: 12 of 12 laws kept/);
    expect(checks).not.toMatch(/FAIL/);
    registry.npm(author, 'publish');
  });

  test('the examples leave the workspace as their authors would have them', () => {
    for (const name of examples) {
      const own = join(place, name);
      cpSync(join('examples', name), own, { recursive: true });
      expect(existsSync(join(own, 'node_modules'))).toBe(false);
      registry.npm(own, 'publish');
    }
  });

  test('the user: install, train, name it in a stack', { timeout: 600_000 }, () => {
    done('mkdir', [user], place);
    writeFileSync(join(user, 'package.json'), '{ "name": "project", "private": true }');
    const packages = ['@attune/cli', 'attune-glow', ...examples];
    registry.npm(user, 'install', '--ignore-scripts', ...packages);
    const { plugins } = JSON.parse(good('plugin', 'list', '--json')) as {
      plugins: { package: string; origin: string; version: string; problem: string | null }[];
    };
    expect(plugins.find((one) => one.package === 'attune-glow')).toMatchObject({
      version: '0.1.0',
      api: 1,
      contributes: { adapters: ['acme/glow'] },
      capabilities: [],
      origin: 'dependency of the project here',
    });
    expect(plugins.map((one) => one.package)).toContain('@attune/adapter-lora');
    expect(plugins.filter((one) => one.problem !== null)).toEqual([]);

    writeFileSync(
      join(user, 'glow.yaml'),
      [
        'stack: { backbone: pocket, adapters: [{ use: acme/glow, train: true }] }',
        'objective: { use: denoise, encoder: vae_encoder, text_encoder: text_encoder }',
        'data: { use: pocket/captioned, style: line art }',
        'train: { steps: 4, batch: 2, lr: 0.05 }',
      ].join('\n'),
    );
    good('train', 'glow.yaml', '--run', 'runs/glow');
    expect(good('inspect', 'runs/glow/best/glow.safetensors')).toMatch(/acme\/glow, glow/);
  });

  test('the stack: edit + video + LoRA + the plugin, run', { timeout: 600_000 }, () => {
    const pocket = 'node_modules/@attune/pocket/adapters';
    const three = ['edit', 'video', 'lora-line-art.safetensors'].map((name) => `${pocket}/${name}`);
    good('compose', 'pocket', ...three, '-o', 'without.yaml');
    good('compose', 'without.yaml', 'runs/glow/best/glow.safetensors@0.5', '-o', 'with.yaml');
    expect(readFileSync(join(user, 'with.yaml'), 'utf8')).toMatch(/use: acme\/glow/);
    const { adapters } = JSON.parse(good('compose', 'with.yaml', '--check', '--json')) as {
      adapters: { kind: string }[];
    };
    expect(adapters.map(({ kind }) => kind)).toEqual(['edit', 'video', 'lora', 'acme/glow']);

    writeSafetensors(join(user, 'in.safetensors'), probe());
    for (const name of ['with', 'without'])
      good('probe', `${name}.yaml`, '--inputs', 'in.safetensors', '--out', `${name}.safetensors`);
    const [plain, glowing] = ['without', 'with'].map(
      (name) => tensors(`${name}.safetensors`).sample,
    );
    expect(glowing.shape).toEqual(plain.shape);
    const far = Array.from(glowing.data as Float32Array, (value, i) =>
      Math.abs(value - Number(plain.data[i])),
    );
    expect(Math.max(...far)).toBeGreaterThan(1e-4);
    expect(far.every(Number.isFinite)).toBe(true);
  });

  test('the examples come from the registry and are what they say', () => {
    const { plugins } = JSON.parse(good('plugin', 'list', '--json')) as {
      plugins: { package: string; origin: string; contributes: object }[];
    };
    const locked = JSON.parse(readFileSync(join(user, 'package-lock.json'), 'utf8')) as {
      packages: Readonly<Record<string, { resolved?: string; link?: boolean }>>;
    };
    for (const [name, contributes] of [
      ['attune-ip-adapter', { adapters: ['ip-adapter/ip-adapter'] }],
      ['attune-heun-sampler', { samplers: ['heun/heun'] }],
    ] as const) {
      expect(plugins.find((one) => one.package === name)).toMatchObject({
        contributes,
        origin: 'dependency of the project here',
      });
      const { resolved, link } = locked.packages[`node_modules/${name}`];
      expect([resolved?.startsWith(registry.url), link]).toEqual([true, undefined]);
      expect(good('plugin', 'validate', `node_modules/${name}`)).not.toMatch(/FAIL/);
    }
    expect(good('inspect', picture, '--base', backbone)).toMatch(/ip-adapter base/);
  });

  test('both run in one stack with edit, video and a LoRA', { timeout: 300_000 }, async () => {
    const adapters = [
      { use: 'video', from: join(others, 'video') },
      { use: 'edit', from: join(others, 'edit') },
      { use: 'lora', from: join(others, 'look.safetensors'), strength: 0.5 },
      { use: 'ip-adapter', from: picture, image_encoder: 'image_encoder', strength: 0.6 },
    ];
    const sampling = { steps: 3, sampler: { use: 'heun', spacing: 'trailing' } };
    writeFileSync(join(user, 'all.yaml'), stringify({ backbone, adapters, sampling }));
    const checked = good('compose', 'all.yaml', '--check', '--json');
    const acting = JSON.parse(checked) as {
      adapters: { name: string; proof: { alone: number } }[];
    };
    expect(acting.adapters.map(({ name }) => name)).toEqual([
      'video',
      'edit',
      'lora',
      'ip-adapter',
    ]);
    for (const { proof } of acting.adapters) expect(proof.alone).toBeGreaterThan(0);

    await clip(join(user, 'clip'));
    const edited = (out: string, ...more: readonly string[]): Buffer[] => {
      good('edit', 'clip', '-i', 'make it golden', '--stack', 'all.yaml', '-o', out, ...more);
      const folder = join(user, out);
      return readdirSync(folder)
        .toSorted()
        .map((name) => readFileSync(join(folder, name)));
    };
    const all = edited('all');
    expect(all).toHaveLength(3);
    // Each of the two does something in it, and does it again.
    expect(edited('ddim', '--sampler', 'ddim')).not.toEqual(all);
    expect(edited('blind', '--strength', 'ip-adapter=0')).not.toEqual(all);
    expect(edited('again')).toEqual(all);
  });

  test('a stack installs nothing by itself', () => {
    const before = readFileSync(join(user, 'package-lock.json'), 'utf8');
    writeFileSync(
      join(user, 'more.yaml'),
      'backbone: pocket\nadapters: [{ use: acme/glimmer, from: ./glow }]\n',
    );
    const { status, stderr } = attune('compose', 'more.yaml', '--check');
    expect(status).toBe(2);
    expect(stderr).toMatch(/No plugin contributes adapters "acme\/glimmer".*nearest: acme\/glow/);
    expect(stderr).toMatch(/Nothing is installed by itself/);
    expect(readFileSync(join(user, 'package-lock.json'), 'utf8')).toBe(before);
    expect(existsSync(join(user, 'node_modules', 'attune-glimmer'))).toBe(false);
  });

  test('a wrong option is answered with the right one', () => {
    writeFileSync(
      join(user, 'wrong.yaml'),
      'backbone: pocket\nadapters: [{ use: acme/glow, scales: 2 }]\n',
    );
    const { status, stderr } = attune('compose', 'wrong.yaml', '--check');
    expect(status).toBe(2);
    expect(stderr).toMatch(/adapter glow: .*unknown key "scales"; did you mean "scale"\?/);
  });
});

const normals = (name: string, shape: readonly number[]): NDArray =>
  Rng.of(1).fork(name).normals(shape);

/** Three pictures, each of one colour. */
async function clip(folder: string): Promise<void> {
  mkdirSync(folder);
  for (let i = 0; i < 3; i++) {
    const background = { r: 80 * i, g: 90, b: 200 };
    const frame = sharp({ create: { width: 64, height: 64, channels: 3, background } });
    await frame.png().toFile(join(folder, `${i}.png`));
  }
}

/** Inputs of pocket's stack: one clip of two frames. */
const probe = (): Record<string, NDArray> => ({
  sample: normals('sample', [1, 12, 2, 16, 16]),
  timestep: { dtype: 'f32', shape: [1], data: new Float32Array([500]) },
  encoder_hidden_states: normals('text', [1, 24, 96]),
  'edit.image': normals('image', [2, 3, 64, 64]),
  'video.first_frame': normals('first', [1, 12, 16, 16]),
});
