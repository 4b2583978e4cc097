/** A registry of packages on this machine, with the workspace's packages in it as npm would get them. */

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';

import { stringify } from 'yaml';

export interface Registry {
  readonly url: string;
  /** Runs npm (or another command) in a folder against this registry alone; its output where it fails. */
  readonly npm: (folder: string, ...args: readonly string[]) => string;
  readonly stop: () => Promise<unknown>;
}

/** Runs a command to its end; anything but success is an error with what it wrote. */
export function done(
  command: string,
  args: readonly string[],
  cwd: string,
  env: NodeJS.ProcessEnv = process.env,
): string {
  const { status, stdout, stderr, error } = spawnSync(command, args, {
    cwd,
    env,
    encoding: 'utf8',
    timeout: 600_000,
    maxBuffer: 2 ** 28,
  });
  if (status !== 0)
    throw new Error(
      `${command} ${args.join(' ')}: ${error?.message ?? status}\n${stdout}\n${stderr}`,
    );
  return stdout;
}

const freePort = (): Promise<number> =>
  new Promise((settle, fail) => {
    const server = createServer();
    server.once('error', fail);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number };
      server.close(() => settle(port));
    });
  });

/** Starts an empty registry; what it does not have comes from the one npm is set to. */
export async function startRegistry(): Promise<Registry> {
  const folder = mkdtempSync(join(tmpdir(), 'registry-'));
  const uplink = done('npm', ['config', 'get', 'registry'], folder).trim();
  const port = await freePort();
  const url = `http://127.0.0.1:${port}/`;
  const config = {
    storage: join(folder, 'storage'),
    uplinks: { above: { url: uplink, timeout: '120s' } },
    packages: {
      '@attune/*': { access: '$all', publish: '$all', unpublish: '$all' },
      'attune-*': { access: '$all', publish: '$all', unpublish: '$all' },
      '**': { access: '$all', proxy: 'above' },
    },
    max_body_size: '200mb',
    web: { enable: false },
    log: { type: 'file', path: join(folder, 'log'), level: 'warn' },
  };
  writeFileSync(join(folder, 'config.yaml'), stringify(config));
  const bin = join(
    dirname(createRequire(import.meta.url).resolve('verdaccio/package.json')),
    'bin',
    'verdaccio',
  );
  const server: ChildProcess = spawn(
    process.execPath,
    [bin, '--config', join(folder, 'config.yaml'), '--listen', `127.0.0.1:${port}`],
    { stdio: 'ignore' },
  );
  for (let tries = 0; !(await answers(url)); tries++) {
    if (tries > 300 || server.exitCode !== null) throw new Error('the registry does not start');
    await new Promise((settle) => setTimeout(settle, 100));
  }
  // A token that nobody checks: npm wants one before it publishes.
  const userconfig = join(folder, 'npmrc');
  writeFileSync(userconfig, `registry=${url}\n//127.0.0.1:${port}/:_authToken=nobody\n`);
  const env = {
    ...withoutNpm(process.env),
    npm_config_userconfig: userconfig,
    npm_config_update_notifier: 'false',
    npm_config_fund: 'false',
    npm_config_audit: 'false',
  };
  return {
    url,
    npm: (where, ...args) => done('npm', args, where, env),
    stop: () => {
      const ended = once(server, 'exit');
      server.kill('SIGKILL');
      return ended;
    },
  };
}

/** What a package manager that runs these tests tells its children is not for the npm in them. */
const withoutNpm = (env: NodeJS.ProcessEnv): NodeJS.ProcessEnv =>
  Object.fromEntries(Object.entries(env).filter(([name]) => !/^(npm|pnpm)_/i.test(name)));

async function answers(url: string): Promise<boolean> {
  try {
    return (await fetch(`${url}-/ping`)).ok;
  } catch {
    return false;
  }
}

/** Builds the packages' types unless they are there and newer than the sources. */
export function buildTypes(): void {
  const stale = readdirSync('packages').some((name) => {
    const types = join('packages', name, 'dist', 'index.d.ts');
    if (!existsSync(types)) return true;
    const sources = join('packages', name, 'src');
    const built = statSync(types).mtimeMs;
    return readdirSync(sources, { recursive: true, encoding: 'utf8' }).some(
      (file) => statSync(join(sources, file)).mtimeMs > built,
    );
  });
  if (stale)
    done(process.execPath, [resolve('node_modules/tsup/dist/cli-default.js'), '--silent'], '.');
}

/** Every package of the workspace as pnpm publishes it. */
export function packWorkspace(): string[] {
  buildTypes();
  const folder = join(mkdtempSync(join(tmpdir(), 'packed-')), 'tarballs');
  mkdirSync(folder);
  const { packageManager } = JSON.parse(readFileSync('package.json', 'utf8')) as {
    packageManager: string;
  };
  const pack = ['--filter', './packages/*', 'pack', '--pack-destination', folder];
  done('npx', ['--yes', packageManager, '-r', ...pack], '.');
  return readdirSync(folder).map((name) => join(folder, name));
}
