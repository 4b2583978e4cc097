/** `attune inspect`, `tokenize` and `doctor` of the built command. */

import { execFileSync } from 'node:child_process';
import {
  cpSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import {
  encodeSafetensors,
  f32,
  type NDArray,
  openSafetensors,
  Rng,
  toF32,
  writeSafetensors,
} from '@attune/engine';
import { describe, expect, test } from 'vitest';

import { attune } from './attune.ts';

const fixtures = 'test/parity/fixtures';
const composed = `${fixtures}/compose/pocket`;
const base = `${fixtures}/unet/pocket`;
const fresh = () => mkdtempSync(join(tmpdir(), 'inspect-'));

interface Verdict {
  readonly container: string;
  readonly verdict: string;
  readonly kind: string | null;
  readonly dialect: string | null;
  readonly algorithm: string | null;
  readonly modules: Readonly<Record<'matched' | 'unmatched' | 'misshaped' | 'zeroEffect', number>>;
  readonly ranks: Readonly<Record<string, number>>;
  readonly alphas: Readonly<Record<string, number>>;
  readonly reason: string | null;
  readonly fix: string | null;
}

/** The verdict as JSON; the exit code must agree with it. */
function verdictOn(file: string, ...options: readonly string[]): Verdict {
  const { status, stdout } = attune('inspect', file, '--json', ...options);
  const verdict = JSON.parse(stdout) as Verdict;
  expect(status).toBe(verdict.verdict === 'loadable' ? 0 : 2);
  if (status)
    expect([verdict.reason, verdict.fix]).toEqual([expect.any(String), expect.any(String)]);
  return verdict;
}

const ascending = (values: Readonly<Record<string, number>>): number[] =>
  Object.values(values).toSorted((a, b) => a - b);

test('a command that meets no picture and no hub loads neither sharp nor undici', () => {
  // `bench/inspect.mjs` says what of a second that is.
  const loaded = readFileSync('packages/cli/dist/index.js', 'utf8').matchAll(
    /^(?:import|} from) [^;]*?"([^"./][^"]*)";$/gm,
  );
  const names = new Set([...loaded].map(([, name]) => name));
  expect(names).toContain('commander');
  expect(names).not.toContain('sharp');
  expect(names).not.toContain('undici');
});

const clean = { unmatched: 0, misshaped: 0, zeroEffect: 0 };

/** A copy of a LoRA file with its tensors changed. */
function changed(change: (tensors: Record<string, NDArray>) => void): string {
  const source = openSafetensors(`${composed}/look.safetensors`);
  const tensors = Object.fromEntries([...source.tensors.keys()].map((k) => [k, source.read(k)]));
  change(tensors);
  const file = join(fresh(), 'changed.safetensors');
  writeSafetensors(file, tensors, source.metadata);
  return file;
}

describe('what can be loaded', () => {
  test.each([
    ['look.safetensors', 'lora', 'diffusers', 'lora', 103],
    ['look.kohya.safetensors', 'lora', 'kohya', 'lora', 103],
    ['look.peft', 'lora', 'peft', 'lora', 103],
    ['words.kohya.safetensors', 'lora', 'kohya', 'lora', 18],
    ['edit', 'edit', 'diffusers', 'controlnet', 93],
    ['video', 'video', 'diffusers', 'motion', 170],
  ])(
    '%s, alone and against its model',
    (file, kind, dialect, algorithm, matched) => {
      for (const options of [[], ['--base', base]]) {
        const verdict = verdictOn(`${composed}/${file}`, ...options);
        expect(verdict).toMatchObject({ container: 'ok', verdict: 'loadable', kind, dialect });
        expect(verdict).toMatchObject({ algorithm, modules: { ...clean, matched }, reason: null });
      }
    },
    60_000,
  );

  test('rank and alpha are those of each module', () => {
    const { ranks, alphas } = verdictOn(`${composed}/look.safetensors`);
    expect(ranks['unet.down_blocks.0.resnets.0.conv1']).toBe(2);
    expect(alphas['unet.down_blocks.0.resnets.0.conv1']).toBe(1);
    const kohya = verdictOn(`${composed}/look.kohya.safetensors`);
    expect(ascending(kohya.ranks)).toEqual(ascending(ranks));
    expect(ascending(kohya.alphas)).toEqual(ascending(alphas));
  });

  test('a LoRA on motion modules fits once they are there', () => {
    const sway = `${composed}/sway.safetensors`;
    expect(verdictOn(sway, '--base', base).modules).toMatchObject({ matched: 0, unmatched: 100 });
    const stack = join(fresh(), 'stack.yaml');
    writeFileSync(
      stack,
      `backbone: ${resolve(base)}\nadapters: [{ use: video, from: '${resolve(composed, 'video')}' }]\n`,
    );
    expect(verdictOn(sway, '--base', stack).modules).toEqual({ ...clean, matched: 100 });
    expect(verdictOn(stack)).toMatchObject({ kind: 'stack', verdict: 'loadable' });
  }, 60_000);

  test.each([
    [base, 'model'],
    [`${base}/unet`, 'unet'],
    [`${fixtures}/unet/sd2`, 'model'],
    [`${fixtures}/vae/kl-2/vae`, 'vae'],
    [`${fixtures}/vae/kl-2/vae_old_names`, 'vae'],
    [`${fixtures}/clip/quick/text_encoder_wrapped`, 'text_encoder'],
  ])('%s', (folder, kind) => {
    expect(verdictOn(folder)).toMatchObject({ verdict: 'loadable', kind, modules: clean });
  });
});

const holding = (...names: readonly string[]): Uint8Array =>
  encodeSafetensors(Object.fromEntries(names.map((name) => [name, f32([1], [1])])));

describe('what cannot, and why', () => {
  test('against a model: unmatched, misshaped, and without effect', () => {
    const file = changed((tensors) => {
      const names = Object.keys(tensors).toSorted();
      const up = names.find((name) => name.endsWith('lora_B.weight'))!;
      tensors[up] = f32(new Float32Array(toF32(tensors[up]).data.length), tensors[up].shape);
      const [down] = names.filter((name) => /attn1\.to_q\.lora_A/.test(name));
      const [rank, width] = tensors[down].shape;
      tensors[down] = f32(new Float32Array(rank * (width + 1)).fill(1), [rank, width + 1]);
      for (const side of ['A', 'B']) {
        const old = `unet.mid_block.attentions.0.proj_in.lora_${side}.weight`;
        tensors[old.replace('proj_in', 'proj_inn')] = tensors[old];
        delete tensors[old];
      }
    });
    const { verdict, modules } = verdictOn(file, '--base', base);
    expect(verdict).toBe('refused');
    expect(modules).toEqual({ matched: 101, unmatched: 1, misshaped: 1, zeroEffect: 1 });
  });

  test('NaN in a weight, and a matrix whose partner is missing', () => {
    const nan = changed((tensors) => {
      const [name] = Object.keys(tensors);
      toF32(tensors[name]).data[0] = Number.NaN;
    });
    expect(verdictOn(nan).reason).toMatch(/NaN or infinity/);
    const alone = changed((tensors) => {
      delete tensors[Object.keys(tensors)[0]];
    });
    expect(verdictOn(alone).modules.misshaped).toBe(1);
  });

  test('a model with a missing weight, a stack with an unknown key', () => {
    const folder = fresh();
    cpSync(`${base}/unet`, join(folder, 'unet'), { recursive: true });
    const config = JSON.parse(readFileSync(join(folder, 'unet/config.json'), 'utf8')) as object;
    writeFileSync(
      join(folder, 'unet/config.json'),
      JSON.stringify({ ...config, layers_per_block: 2 }),
    );
    expect(verdictOn(folder).reason).toMatch(/\d+ weights are missing/);
    const stack = join(folder, 'stack.yaml');
    writeFileSync(stack, 'backbone: ./\nadaptors: []\n');
    expect(verdictOn(stack)).toMatchObject({
      container: 'refused',
      reason: expect.stringMatching(/unknown key "adaptors"; did you mean "adapters"/),
    });
  });

  test('a LoRA in a pickle is what it is in safetensors', () => {
    const pickled = verdictOn(`${fixtures}/checkpoints/words.kohya.pt`);
    const plain = verdictOn(`${composed}/words.kohya.safetensors`);
    expect(pickled).toEqual({ ...plain, file: `${fixtures}/checkpoints/words.kohya.pt` });
    expect(pickled.verdict).toBe('loadable');
  });

  const named = (name: string, content: string | Uint8Array): string => {
    const file = join(fresh(), name);
    writeFileSync(file, content);
    return file;
  };

  test.each<[string, string, string, RegExp]>([
    ['a cut archive', named('a.ckpt', 'PK\u0003\u0004zip'), 'refused', /cut short/],
    ['a pickle with code', `${fixtures}/checkpoints/code.pt`, 'refused', /posix\.system/],
    ['another archive', `${fixtures}/checkpoints/pictures.zip`, 'refused', /none that torch/],
    ['a pickle', named('a.bin', Buffer.from([0x80, 2, 0x7d])), 'refused', /pickle/],
    ['anything called .pt', named('a.pt', 'text\u0001'), 'refused', /torch\.save/],
    [
      'an LFS pointer',
      named('a.safetensors', 'version https://git-lfs.github.com/spec/v1\n'),
      'refused',
      /Git LFS/,
    ],
    ['a web page', named('a.safetensors', '<!DOCTYPE html><html>'), 'refused', /web page/],
    ['an empty file', named('a.safetensors', ''), 'refused', /empty/],
    [
      'a hostile length',
      named('a.safetensors', Buffer.alloc(64, 0xff)),
      'refused',
      /header claims/,
    ],
    ['nothing', join(fresh(), 'nothing.safetensors'), 'refused', /does not exist/],
    ['an empty folder', fresh(), 'refused', /safetensors/],
    ['a device', '/dev/zero', 'refused', /device/],
    [
      'a piece of a whole checkpoint',
      named('a.safetensors', holding('model.diffusion_model.out.0.weight')),
      'ok',
      /There is no weight/,
    ],
    [
      'an IP-Adapter',
      named('a.safetensors', holding('image_proj.norm.weight')),
      'ok',
      /IP-Adapter/,
    ],
    ['OFT', named('a.safetensors', holding('lora_unet_x.oft_blocks')), 'ok', /oft/],
    ['half a LoHa', named('a.safetensors', holding('lora_unet_x.hada_w1_a')), 'ok', /lora_unet_x/],
    [
      'unknown tensors',
      named('a.safetensors', holding('x\u001b[31m')),
      'ok',
      /no adapter or model/,
    ],
    ['no tensors', named('a.safetensors', encodeSafetensors({})), 'ok', /no tensors/],
  ])('%s', (_, file, container, reason) => {
    expect(verdictOn(file)).toMatchObject({
      container,
      verdict: 'refused',
      reason: expect.stringMatching(reason) as string,
    });
    const { stdout, stderr } = attune('inspect', file);
    expect(stderr.trim().split('\n')).toHaveLength(1);
    expect(stdout + stderr).not.toContain('\u001b');
  });

  test('a pipe does not hang it', () => {
    const pipe = join(fresh(), 'pipe.safetensors');
    execFileSync('/usr/bin/env', ['mkfifo', pipe]);
    expect(verdictOn(pipe).reason).toMatch(/device or pipe/);
  });

  test('a big file is judged by its header, its values only when asked', () => {
    const side = 2 ** 26;
    const header = JSON.stringify({
      'lora_unet_x.lora_down.weight': {
        dtype: 'F32',
        shape: [1, side],
        data_offsets: [0, 4 * side],
      },
      'lora_unet_x.lora_up.weight': {
        dtype: 'F32',
        shape: [side / 32, 1],
        data_offsets: [4 * side, 4 * side + side / 8],
      },
    }).padEnd(256);
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(header.length));
    const file = named('big.safetensors', Buffer.concat([length, Buffer.from(header)]));
    truncateSync(file, 8 + header.length + 4 * side + side / 8); // sparse: it takes no room
    expect(verdictOn(file).modules).toEqual({ ...clean, matched: 1, zeroEffect: null });
    expect(verdictOn(file, '--deep').modules).toEqual({ ...clean, matched: 1, zeroEffect: 1 });
  });

  test('damaged bytes of a real file', () => {
    const good = readFileSync(`${composed}/look.safetensors`);
    const rng = Rng.of(5);
    const at = (limit: number) => Math.floor(rng.uniform() * limit);
    for (let i = 0; i < 12; i++) {
      const bad = Buffer.from(i % 3 === 0 ? good.subarray(0, at(good.length)) : good);
      for (let n = 0; n < 8 && bad.length > 0; n++) bad[at(Math.min(bad.length, 4000))] = at(256);
      const verdict = verdictOn(named('bad.safetensors', bad));
      expect(['loadable', 'refused']).toContain(verdict.verdict);
    }
  }, 60_000);
});

describe('tokenize', () => {
  test('ids, tokens and a warning with the count', () => {
    const long = 'a golden lion '.repeat(8);
    const { status, stdout, stderr } = attune('tokenize', base, 'a golden lion', long, '--json');
    expect(status).toBe(0);
    const [short, cut] = stdout
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as object);
    expect(short).toMatchObject({
      ids: expect.any(Array) as number[],
      length: 5,
      truncated: false,
    });
    expect(cut).toMatchObject({ length: 26, truncated: true });
    expect(stderr).toMatch(/has 26 tokens; the encoder reads 16, so 10 are cut/);
  });

  test('a tokenizer folder by itself, and a model without one', () => {
    expect(attune('tokenize', `${fixtures}/tokenizer/files`, 'the cat').status).toBe(0);
    const { status, stderr } = attune('tokenize', `${fixtures}/unet/sd2`, 'the cat');
    expect([status, stderr]).toEqual([2, expect.stringMatching(/has no tokenizer/)]);
  });
});

describe('doctor and help', () => {
  test('what is there', () => {
    const { status, stdout } = attune('doctor', '--json');
    expect(status).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({
      versions: { node: process.versions.node },
      devices: { cpu: { ok: true } },
      media: { ffmpeg: { ok: expect.any(Boolean) as boolean } },
    });
    expect(stdout).toContain('adapters:attune/lora');
  }, 60_000);

  test('every command stands in the help and has an example', () => {
    const { stdout } = attune('--help');
    const commands = [...stdout.matchAll(/^ {2}(?!help\b)(\w+) /gm)].map(([, name]) => name);
    expect(commands.toSorted()).toEqual(
      readdirSync('packages/cli/src/commands')
        .map((file) => file.replace('.ts', ''))
        .filter((name) => name !== 'arguments'),
    );
    for (const command of commands) {
      const help = attune(command, '--help');
      expect(help.status).toBe(0);
      expect(help.stdout).toContain(`$ attune ${command}`);
    }
  });

  test('wrong usage is exit 2', () => {
    expect(attune('inspect').status).toBe(2);
    expect(attune('probe', base).status).toBe(2);
    expect(attune('tokenize', 'nowhere', 'x').status).toBe(2);
  });
});
