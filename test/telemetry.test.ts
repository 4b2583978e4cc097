/** ONNX Runtime's counting of its use is off. */

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { expect, test } from 'vitest';

test('a command that runs a model leaves nothing of ONNX Runtime in a home', () => {
  const home = mkdtempSync(join(tmpdir(), 'home-'));
  const out = join(home, 'a.png');
  const args = ['generate', 'a cat', '-o', out, '--steps', '1'];
  const { ORT_DISABLE_TELEMETRY: _, ...env } = process.env;
  const { status, stderr } = spawnSync(process.execPath, ['packages/cli/bin/attune.js', ...args], {
    encoding: 'utf8',
    timeout: 120_000,
    env: { ...env, HOME: home, XDG_CACHE_HOME: join(home, '.cache') },
  });
  expect({ status, stderr }).toMatchObject({ status: 0 });
  const left = readdirSync(home, { recursive: true }).map(String);
  expect(left).toContain('a.png');
  expect(left.filter((path) => /microsoft|onnxruntime|\.ses$/i.test(path))).toEqual([]);
});
