/**
 * Hostile configs, indexes, tokenizers, stack files, locks, pictures and clips: whatever is in them, there
 * is a verdict or one clear error, soon and in little memory.
 */

import { execFileSync, spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { deflateSync } from 'node:zlib';

import {
  findPlugins,
  loadModel,
  type Model,
  parseYaml,
  PluginLoader,
  readLock,
  StackFile,
  Tokenizer,
} from '@attune/core';
import { AttuneError, Rng } from '@attune/engine';
import sharp from 'sharp';
import { beforeAll, describe, expect, test } from 'vitest';

import { inspect } from '../src/inspect/verdict.ts';
import { openMedia } from '../src/media/index.ts';

const fixtures = resolve('test/parity/fixtures');
const loader = new PluginLoader(findPlugins('packages/cli'));
const folder = mkdtempSync(join(tmpdir(), 'hostile-'));
const at = (name: string): string => join(folder, name);
let base: Model;
beforeAll(async () => {
  base = await loadModel(`${fixtures}/unet/pocket`);
});

/** A copy of a folder whose weights are links, so that its other files can be changed. */
function copied(from: string, name: string): string {
  const to = at(name);
  mkdirSync(to, { recursive: true });
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    const [source, target] = [join(from, entry.name), join(to, entry.name)];
    if (entry.isDirectory()) copied(source, join(name, entry.name));
    else if (/^io\b/.test(entry.name) || existsSync(target)) continue;
    else if (entry.name.endsWith('.safetensors')) symlinkSync(source, target);
    else cpSync(source, target);
  }
  return to;
}

const nested = (depth: number): string => '['.repeat(depth) + ']'.repeat(depth);

/** What a value is replaced by, as JSON or nearly. */
const evil = [
  'null',
  'true',
  '-1',
  '0',
  '0.5',
  '1e308',
  '-1e308',
  '2147483648',
  '9007199254740993',
  '"x"',
  '""',
  '"__proto__"',
  '[]',
  '{}',
  '[[[]]]',
  '[null]',
  '[-1]',
  '[1e9,1e9,1e9]',
  '-Infinity',
  'NaN',
  '{"__proto__":{"polluted":1}}',
  '{"constructor":{"prototype":1}}',
  nested(50),
  nested(5000),
  '"\\ud800"',
  `"${'x'.repeat(10_000)}"`,
];

/** A JSON text with one or two of its values (keys, too, now and then) replaced. */
function mutated(text: string, rng: Rng): string {
  let out = text;
  for (let k = rng.int(2); k >= 0; k--) {
    const spots = [...out.matchAll(/:\s*("[^"]*"|-?[\d.e+-]+|true|false|null|\[[^[\]]*\])/g)];
    if (spots.length === 0) break;
    const spot = spots[rng.int(spots.length)];
    const start = spot.index;
    const end = start + spot[0].length;
    const way = rng.uniform();
    const value = evil[rng.int(evil.length)];
    if (way < 0.85) out = `${out.slice(0, start)}: ${value}${out.slice(end)}`;
    else if (way < 0.95) out = `${out.slice(0, end)}, "__proto__": ${value}${out.slice(end)}`;
    else out = out.slice(0, rng.int(out.length));
  }
  return out;
}

/** A verdict that comes of an error of ours, or a good one. */
async function judged(path: string, against?: Model): Promise<'loadable' | 'refused'> {
  const found = await inspect(path, { loader, ...(against ? { base: against } : {}) });
  expect(found.reason ?? '').not.toMatch(/^it cannot be read: /);
  expect((found.reason ?? '').length).toBeLessThan(20_000);
  return found.verdict;
}

const [model, sharded] = [`${fixtures}/unet/pocket`, `${fixtures}/unet/sd2`];
describe('folders with a file of changed values', () => {
  test.each<[file: string, from: string, count: number, fits: boolean]>([
    ['unet/config.json', model, 60, false],
    ['vae/config.json', model, 40, false],
    ['text_encoder/config.json', model, 40, false],
    ['scheduler/scheduler_config.json', model, 60, false],
    ['tokenizer/tokenizer_config.json', model, 30, false],
    ['config.json', `${fixtures}/compose/pocket/edit`, 40, true],
    ['config.json', `${fixtures}/compose/pocket/video`, 40, true],
    ['adapter_config.json', `${fixtures}/compose/pocket/look.peft`, 40, true],
    ['unet/diffusion_pytorch_model.safetensors.index.json', sharded, 40, false],
  ])(
    '%s (%#)',
    async (file, from, count, fits) => {
      const own = copied(from, `folder-${file.replaceAll('/', '-')}-${from.split('/').pop()}`);
      const path = join(own, file);
      const good = readFileSync(path, 'utf8');
      expect(await judged(own, fits ? base : undefined)).toBe('loadable');
      const rng = Rng.of(21).fork(file, from.split('/').pop()!);
      const seen = { loadable: 0, refused: 0 };
      for (let i = 0; i < count; i++) {
        writeFileSync(path, mutated(good, rng.fork(i)));
        seen[await judged(own, fits ? base : undefined)]++;
      }
      expect(seen.refused).toBeGreaterThan(0);
      expect(Object.hasOwn(Object.prototype, 'polluted')).toBe(false);
    },
    120_000,
  );

  test('a pipe or a device in the place of a config', async () => {
    const own = copied(model, 'pipe');
    for (const file of ['unet/config.json', 'scheduler/scheduler_config.json']) {
      const path = join(own, file);
      execFileSync('rm', [path]);
      execFileSync('/usr/bin/env', ['mkfifo', path]);
      expect(await judged(own)).toBe('refused');
      execFileSync('rm', [path]);
      symlinkSync('/dev/zero', path);
      expect(await judged(own)).toBe('refused');
      execFileSync('rm', [path]);
      cpSync(join(model, file), path);
    }
  });

  test('more layers than any machine could trace', async () => {
    const own = copied(model, 'layers');
    const path = join(own, 'unet/config.json');
    const config = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
    for (const change of [
      { layers_per_block: 1e9 },
      { transformer_layers_per_block: 1e9 },
      { block_out_channels: Array.from({ length: 5000 }, () => 8) },
      { block_out_channels: [] },
      { cross_attention_dim: 2 ** 52 },
    ]) {
      writeFileSync(path, JSON.stringify({ ...config, ...change }));
      expect(await judged(own)).toBe('refused');
    }
  });

  test('patterns that would be compared for ever', async () => {
    const own = copied(`${fixtures}/compose/pocket/look.peft`, 'patterns');
    const path = join(own, 'adapter_config.json');
    const config = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;
    const many = Object.fromEntries(Array.from({ length: 9000 }, (_, i) => [`.*a.*b${i}`, 1]));
    for (const pattern of [many, { '(a*)*b': 1 }, { '[': 1 }]) {
      writeFileSync(path, JSON.stringify({ ...config, alpha_pattern: pattern }));
      expect(await judged(own, base)).toBe('refused');
    }
  });
});

describe('tokenizers', () => {
  test.each([
    ['files', 'vocab.json'],
    ['files', 'merges.txt'],
    ['files', 'special_tokens_map.json'],
    ['json', 'tokenizer.json'],
    ['json', 'tokenizer_config.json'],
  ])('%s/%s', async (form, file) => {
    const own = copied(`${fixtures}/tokenizer/${form}`, `tokenizer-${form}-${file}`);
    const path = join(own, file);
    const good = readFileSync(path, 'utf8');
    for (let i = 0; i < 25; i++) {
      const rng = Rng.of(22).fork(form, file, i);
      writeFileSync(path, mutated(i % 5 ? good : good.slice(0, rng.int(good.length)), rng));
      try {
        const tokenizer = await Tokenizer.load(own);
        expect(tokenizer.encode('a cat').ids.length).toBeLessThanOrEqual(1e6);
      } catch (error) {
        if (!AttuneError.is(error)) throw error;
      }
    }
  });
});

/** The error of a stack file's text; undefined where it is read. */
function refusal(text: string): string | undefined {
  try {
    parseYaml(StackFile, text, 'stack.yaml');
    return undefined;
  } catch (error) {
    if (!AttuneError.is(error)) throw error;
    return error.message;
  }
}

const bomb = [
  'a: &a [x, x, x, x, x, x, x, x, x]',
  ...Array.from({ length: 9 }, (_, i) => {
    const [own, last] = ['bcdefghij'[i], 'abcdefghi'[i]];
    return `${own}: &${own} [${Array.from({ length: 9 }, () => `*${last}`).join()}]`;
  }),
].join('\n');

describe('stack files', () => {
  test.each<[string, string, RegExp]>([
    ['an anchor bomb', `backbone: ./m\n${bomb}`, /alias/i],
    ['an alias inside its own anchor', 'backbone: &a [*a]', /alias|circular|backbone/i],
    ['an alias to nothing', 'backbone: *nowhere', /alias/i],
    ['nested without end', `backbone: ${nested(50_000)}`, /stack|deep|nest|backbone/i],
    ['an unknown tag', 'backbone: !!python/object/apply:os.system [true]', /backbone/],
    ['a merge key', '%YAML 1.1\n---\nx: &x {backbone: a}\n<<: *x\n', /unknown key "x"/],
    ['a mapping twice', 'backbone: a\nbackbone: b\n', /unique/i],
    ['a megabyte', `backbone: ${'x'.repeat(2 ** 20)}`, /at most/],
    ['very many keys', `backbone: a\n${keys(20_000)}`, /unknown key/],
    ['no text', '\0\u0001\u0002', /stack\.yaml/],
    ['two documents', 'backbone: a\n---\nbackbone: b\n', /documents/],
    ['nothing', '', /stack\.yaml/],
  ])('%s', (_, text, message) => {
    expect(refusal(text)).toMatch(message);
  });

  test('prototype keys change nothing', () => {
    for (const key of ['__proto__', 'constructor', 'prototype']) {
      const text = `backbone: a\nadapters:\n  - { use: lora, ${key}: { strength: nonsense, name: 7 } }\n`;
      const stack =
        refusal(text) === undefined ? parseYaml(StackFile, text, 'stack.yaml') : undefined;
      expect(stack?.adapters[0].strength).toBeUndefined();
      expect(stack?.adapters[0].name).toBeUndefined();
      expect(Object.hasOwn(Object.prototype, 'strength')).toBe(false);
    }
  });

  test('300 damaged ones', () => {
    let refused = 0;
    const good = `backbone: ./sd15\nschedule: { beta_schedule: linear }\nadapters:\n  - { name: look, use: lora, from: ./l.safetensors, strength: { default: 1, unet.mid_block: { scale: 2, during: [0, 1] } } }\nsampling: { steps: 4 }\n`;
    const spare = [
      '&a',
      '*a',
      '!!map',
      '? ',
      '- ',
      ': ',
      '{',
      ']',
      '"',
      '|',
      '>',
      '%',
      '\t',
      '\n  ',
    ];
    for (let i = 0; i < 300; i++) {
      const rng = Rng.of(23).fork(i);
      let text = good;
      for (let k = rng.int(4); k >= 0; k--) {
        const spot = rng.int(text.length);
        text = text.slice(0, spot) + spare[rng.int(spare.length)] + text.slice(spot + rng.int(4));
      }
      if (refusal(text) !== undefined) refused++;
    }
    expect(refused).toBeGreaterThan(100);
  });

  test('locks: changed values, nested without end', () => {
    const lock = at('locked.lock.json');
    const good = `{"version":1,"backbone":{"use":"a","license":null,"files":{"a":{"size":1,"sha256":"x"}}},"schedule":{"a":1},"order":["l"],"adapters":{"l":{"use":"lora","plugin":"p","strength":1,"train":false,"stills":true,"options":{},"trained_with":null,"license":null,"files":{}}},"plugins":{},"license":{"strictest":null,"asks":null,"unknown":[]}}`;
    for (let i = 0; i < 200; i++) {
      writeFileSync(lock, mutated(good, Rng.of(24).fork(i)));
      try {
        readLock(at('locked.yaml'));
      } catch (error) {
        if (!AttuneError.is(error)) throw error;
      }
    }
    writeFileSync(lock, good.replace('"a":1', `"a":${nested(10_000)}`));
    expect(() => readLock(at('locked.yaml'))).toThrow(/nests its values/);
  });
});

function keys(count: number): string {
  return Array.from({ length: count }, (_, i) => `k${i}: 1\n`).join('');
}

/** A PNG of `chunks` (name, data) with right checksums. */
function png(...chunks: readonly [string, Uint8Array][]): Buffer {
  const parts = [Buffer.from('\x89PNG\r\n\x1a\n', 'latin1')];
  for (const [name, data] of chunks) {
    const body = Buffer.concat([Buffer.from(name), data]);
    const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
    length.writeUInt32BE(data.length);
    sum.writeUInt32BE(crc(body));
    parts.push(length, body, sum);
  }
  return Buffer.concat(parts);
}

function crc(bytes: Uint8Array): number {
  let sum = 0xffffffff;
  for (const byte of bytes) {
    sum ^= byte;
    for (let k = 0; k < 8; k++) sum = sum & 1 ? (sum >>> 1) ^ 0xedb88320 : sum >>> 1;
  }
  return (sum ^ 0xffffffff) >>> 0;
}

function header(width: number, height: number): Buffer {
  const data = Buffer.alloc(13);
  data.writeUInt32BE(width, 0);
  data.writeUInt32BE(height, 4);
  data.set([8, 2, 0, 0, 0], 8);
  return data;
}

/** Opens a picture or clip and reads its first frames; the error's message where it is refused. */
async function watched(name: string, content: Uint8Array): Promise<string> {
  const path = at(name);
  writeFileSync(path, content);
  try {
    let count = 0;
    for await (const frame of (await openMedia(path)).frames()) {
      expect(frame.data.length).toBe(frame.width * frame.height * 3);
      if (++count === 3) break;
    }
    return 'opened';
  } catch (error) {
    if (!AttuneError.is(error)) throw error;
    expect(error.message.length).toBeLessThan(2000);
    return error.message;
  }
}

describe('pictures and clips', () => {
  test.each<[string, () => Uint8Array, RegExp]>([
    [
      'wide.png',
      () => png(['IHDR', header(2 ** 31 - 1, 2 ** 31 - 1)], ['IDAT', deflateSync('')]),
      /cannot be decoded|pixels/,
    ],
    [
      'big.png',
      () => png(['IHDR', header(40_000, 40_000)], ['IDAT', deflateSync(Buffer.alloc(1000))]),
      /cannot be decoded|pixels/,
    ],
    ['none.png', () => png(['IHDR', header(0, 0)]), /cannot be decoded/],
    [
      'big.gif',
      () => Buffer.from('474946383961ffffffff800000000000ffffff2c00000000ffffffff00023b', 'hex'),
      /cannot be decoded|pixels|cut off/,
    ],
    [
      'big.webp',
      () =>
        Buffer.from(
          '524946461e000000574542505650382011000000300100009d012affffffff0000000000',
          'hex',
        ),
      /cannot be decoded|pixels/,
    ],
    ['cut.jpg', () => Buffer.from('ffd8ffe000104a464946', 'hex'), /cannot be decoded/],
    ['cut.mp4', () => Buffer.from('0000002066747970697361366d', 'hex'), /cut\.mp4/],
    [
      'big.mp4',
      () => Buffer.from('00000010667479706d70343200000000ffffffff6d6f6f76', 'hex'),
      /big\.mp4/,
    ],
  ])('%s', async (name, content, message) => {
    expect(await watched(name, content())).toMatch(message);
  });

  test('text in a picture that unfolds to a gigabyte', async () => {
    const note = deflateSync(Buffer.alloc(2 ** 28, 'x'));
    const row = deflateSync(Buffer.alloc(4));
    const bytes = png(
      ['IHDR', header(1, 1)],
      ['zTXt', Buffer.concat([Buffer.from('attune\0\0'), note])],
      ['IDAT', row],
      ['IEND', Buffer.alloc(0)],
    );
    const before = process.memoryUsage().rss;
    await watched('note.png', bytes);
    expect(await judged(at('note.png'))).toBe('refused');
    expect(process.memoryUsage().rss - before).toBeLessThan(2 ** 28);
  });

  test('damaged bytes of every format', async () => {
    const frame = sharp({ create: { width: 24, height: 16, channels: 3, background: '#c04040' } });
    const pages = await Promise.all([0, 1, 2].map(() => frame.clone().png().toBuffer()));
    const clip = sharp(pages, { join: { animated: true } });
    const good: Readonly<Record<string, Buffer>> = {
      png: pages[0],
      jpg: await frame.clone().jpeg().toBuffer(),
      webp: await clip.clone().webp().toBuffer(),
      gif: await clip.clone().gif().toBuffer(),
    };
    for (const [format, sound] of Object.entries(good)) {
      const seen = { opened: 0, refused: 0 };
      for (let i = 0; i < 60; i++) {
        const rng = Rng.of(25).fork(format, i);
        const bytes = Buffer.from(i % 4 ? sound : sound.subarray(0, rng.int(sound.length)));
        for (let k = rng.int(4); k > 0 && bytes.length > 0; k--)
          bytes[rng.int(bytes.length)] = rng.int(256);
        seen[(await watched(`damaged.${format}`, bytes)) === 'opened' ? 'opened' : 'refused']++;
      }
      expect(seen.refused).toBeGreaterThan(5);
    }
  });

  test('a folder with a pipe among its frames', async () => {
    const own = at('frames');
    mkdirSync(own);
    execFileSync('/usr/bin/env', ['mkfifo', join(own, '0.png')]);
    await expect(openMedia(own)).rejects.toThrow(/no file/);
  });
});

test('the command itself: exit 2 and one message', () => {
  const files: Readonly<Record<string, string | Uint8Array>> = {
    'deep.safetensors': framed(`{"a":${nested(1_000_000)}}`),
    'objects.safetensors': framed(`{"a":[${'{},'.repeat(5_000_000)}{}]}`),
    'bomb.yaml': `backbone: a\n${bomb}`,
    'deep.yaml': `backbone: ${nested(20_000)}`,
    'config.json': nested(10),
    'old.pt': Buffer.from('80028a0a6cfc9c46f9206aa850192e', 'hex'),
    'archive.ckpt': Buffer.from('504b0304', 'hex'),
    'wide.png': png(['IHDR', header(2 ** 30, 2 ** 30)]),
    'cut.mp4': Buffer.from('0000002066747970697361366d', 'hex'),
  };
  for (const [name, content] of Object.entries(files)) {
    writeFileSync(at(name), content);
    const { status, stderr } = spawnSync(
      process.execPath,
      ['--max-old-space-size=512', resolve('packages/cli/bin/attune.js'), 'inspect', at(name)],
      { encoding: 'utf8', timeout: 60_000 },
    );
    expect({ name, status }).toEqual({ name, status: 2 });
    expect(stderr).not.toMatch(/\n\s+at |unexpected:|it cannot be read: /);
    expect(stderr.match(/^attune: /gm)).toHaveLength(1);
  }
}, 240_000);

/** A safetensors file of a header alone. */
function framed(json: string): Buffer {
  const head = Buffer.alloc(8);
  head.writeBigUInt64LE(BigInt(json.length));
  return Buffer.concat([head, Buffer.from(json)]);
}
