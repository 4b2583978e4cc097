/** Exports in onnxruntime-web under a headless Chromium, against attune's own run. */

import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { createRequire } from 'node:module';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, dirname, extname, join } from 'node:path';

import { chromium } from 'playwright-core';
import { expect, test } from 'vitest';

const names = ['chromium', 'chromium-browser', 'google-chrome'];
const browser = (process.env.PATH ?? '')
  .split(delimiter)
  .flatMap((folder) => names.map((name) => join(folder, name)))
  .find((file) => existsSync(file));

const folder = mkdtempSync(join(tmpdir(), 'export-web-'));
const runtime = dirname(createRequire(import.meta.url).resolve('onnxruntime-web/wasm'));
const types: Readonly<Record<string, string>> = {
  '.js': 'text/javascript',
  '.mjs': 'text/javascript',
  '.wasm': 'application/wasm',
  '.json': 'application/json',
};

/** The page, onnxruntime-web and the exports, on loopback. */
function serve(): Promise<Server> {
  const server = createServer((request, response) => {
    const path = request.url ?? '/';
    const file = path.startsWith('/ort/')
      ? join(runtime, path.slice('/ort/'.length))
      : path === '/page.js'
        ? 'test/export/page.js'
        : join(folder, path);
    if (path === '/') response.setHeader('content-type', 'text/html').end('<!doctype html>');
    else if (existsSync(file))
      response
        .setHeader('content-type', types[extname(file)] ?? 'application/octet-stream')
        .end(readFileSync(file));
    else response.writeHead(404).end();
  });
  return new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(server)));
}

interface Result {
  readonly version: string;
  readonly agent: string;
  readonly found: readonly (readonly [part: string, output: string, error: number])[];
}

const reason = `: skipped, no Chromium on the PATH (${names.join(', ')})`;
test.skipIf(!browser)(
  `every part runs in the browser as it does here${browser ? '' : reason}`,
  { timeout: 300_000 },
  async () => {
    const exports = {
      inside: ['--frames', '2', '--part', 'all', '--live-strengths'],
      beside: ['--frames', '2', '--external', '--weights', 'f16'],
    };
    for (const [name, more] of Object.entries(exports)) {
      const out = join(folder, name);
      const args = ['packages/cli/bin/attune.js', 'export', 'pocket/aligned', '-o', out, ...more];
      const { status, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' });
      expect([status, stderr]).toEqual([0, expect.stringContaining('wrote')]);
    }
    const server = await serve();
    const open = await chromium.launch({
      executablePath: browser!,
      args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking'],
    });
    try {
      const page = await open.newPage();
      await page.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
      for (const name of Object.keys(exports)) {
        const { version, agent, found } = await page.evaluate<Result>(
          `import('/page.js').then(({ run }) => run('/${name}'))`,
        );
        console.log(`onnxruntime-web ${version}, ${/Chrome\/\S+/.exec(agent)?.[0]}, ${name}:`);
        for (const [part, output, error] of found)
          console.log(`  ${part} ${output}: ${error.toExponential(1)}`);
        expect(found.length).toBe(name === 'inside' ? 5 : 1);
        for (const [, , error] of found) expect(error).toBeLessThan(1e-4);
      }
    } finally {
      await open.close();
      server.close();
    }
  },
);
