/** Hostile files named to the built command. */

import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { resolve } from 'node:path';

import { expect, test } from 'vitest';

import { at, bomb, header, nested, png } from './hostile-scene.ts';

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
