/** attune doctor: what this machine and installation offer. */

import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { arch, availableParallelism, cpus, freemem, platform, release, totalmem } from 'node:os';
import { dirname, join } from 'node:path';

import type { PluginLoader } from '@attune/core';
import {
  add,
  AttuneError,
  type Device,
  devices,
  f32,
  input,
  OrtRuntime,
  Program,
  Weights,
} from '@attune/engine';
import { Command, Option } from 'commander';

import { videoTools } from '../media/peers.ts';
import { openSession } from '../session.ts';
import { printable } from '../terminal.ts';

/** Something that may or may not be there. */
interface Presence {
  readonly ok: boolean;
  /** Its version, or why it is not there. */
  readonly detail: string;
}

export const doctorCommand = (): Command =>
  new Command('doctor')
    .description('show versions, devices, optional packages and plugins')
    .option('--json', 'one JSON object on stdout')
    .addOption(new Option('--try <device>', 'try one device only').choices(devices).hideHelp())
    .addHelpText('after', '\nExample:\n  $ attune doctor --json')
    .action(doctorAction);

interface Options {
  readonly json?: boolean;
  readonly try?: Device;
}

async function doctorAction({ json, try: device }: Options): Promise<void> {
  if (device) {
    console.log(JSON.stringify(await tryDevice(device)));
    return;
  }
  const own = createRequire(import.meta.url);
  const engine = createRequire(own.resolve('@attune/engine/package.json'));
  const report = {
    versions: {
      attune: versionAbove(own.resolve('@attune/cli/package.json')),
      node: process.versions.node,
      'onnxruntime-node': versionAbove(engine.resolve('onnxruntime-node')),
    },
    machine: {
      platform: `${platform()}-${arch()} ${release()}`,
      cpu: cpus()[0]?.model.trim() ?? 'unknown',
      cores: availableParallelism(),
      memoryGiB: gib(totalmem()),
      freeGiB: gib(freemem()),
    },
    devices: await checkDevices(),
    media: {
      mediabunny: await optional('mediabunny', () => import('mediabunny')),
      '@napi-rs/webcodecs': await optional(
        '@napi-rs/webcodecs',
        () => import('@napi-rs/webcodecs'),
      ),
      ffmpeg: ffmpeg(),
    },
    plugins: await checkPlugins(),
  };
  if (json) console.log(JSON.stringify(report));
  else print(report);
  if (!report.devices.cpu.ok)
    throw new AttuneError(
      'RUNTIME',
      `ONNX Runtime does not work here: ${report.devices.cpu.detail}`,
    );
}

const gib = (bytes: number): number => Math.round((bytes / 2 ** 30) * 10) / 10;

async function checkDevices(): Promise<Record<Device, Presence>> {
  const found: [Device, Presence][] = [];
  for (const device of devices)
    found.push([device, device === 'cpu' ? await tryDevice(device) : tryApart(device)]);
  return Object.fromEntries(found) as Record<Device, Presence>;
}

/** A driver may write to stderr or take its process down, so each has one of its own. */
function tryApart(device: Device): Presence {
  const home = homes[device];
  if (home && !home.includes(platform()))
    return { ok: false, detail: `it exists on ${home.join(' and ')} only` };
  const { stdout, status, signal } = spawnSync(
    process.execPath,
    [process.argv[1], 'doctor', '--try', device],
    { encoding: 'utf8', timeout: 60_000, stdio: ['ignore', 'pipe', 'ignore'] },
  );
  const last = stdout.trim().split('\n').at(-1) ?? '';
  if (last.startsWith('{')) return JSON.parse(last) as Presence;
  return { ok: false, detail: `its driver ended the process (${signal ?? `exit ${status}`})` };
}

const homes: Readonly<Partial<Record<Device, readonly string[]>>> = {
  cuda: ['linux', 'win32'],
  dml: ['win32'],
  coreml: ['darwin'],
};

/** Runs one addition on a device. */
async function tryDevice(device: Device): Promise<Presence> {
  const runtime = new OrtRuntime({ device, threads: 1 });
  try {
    const x = input('x', [2]);
    const program = new Program(
      { outputs: { y: add(x, x) }, marks: [] },
      { runtime, weights: Weights.fromArrays({}) },
    );
    const { y } = await program.run({ x: f32([1, 2], [2]) });
    const right = Number(y.data[1]) === 4;
    return { ok: right, detail: right ? 'works' : 'it computes wrong numbers' };
  } catch (error) {
    return { ok: false, detail: firstLine(error) };
  } finally {
    await runtime.release();
  }
}

async function optional(name: string, load: () => Promise<unknown>): Promise<Presence> {
  let entry: string;
  try {
    entry = createRequire(import.meta.url).resolve(name);
  } catch {
    return { ok: false, detail: `not installed (npm i ${name})` };
  }
  try {
    await load();
    return { ok: true, detail: versionAbove(entry) };
  } catch (error) {
    return { ok: false, detail: firstLine(error) };
  }
}

function ffmpeg(): Presence {
  const { status, stdout, error } = spawnSync(videoTools.ffmpeg, ['-version'], {
    encoding: 'utf8',
    timeout: 10_000,
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  if (error || status !== 0) return { ok: false, detail: 'not on the PATH' };
  return { ok: true, detail: /^ffmpeg version (\S+)/.exec(stdout)?.[1] ?? 'unknown version' };
}

/** Plugins in reach, each loaded; one that is broken is reported, not fatal. */
async function checkPlugins() {
  let loader: PluginLoader;
  try {
    loader = openSession({}).loader;
  } catch (error) {
    return [{ package: '', version: '', ids: [] as string[], ok: false, detail: firstLine(error) }];
  }
  return Promise.all(
    loader.plugins.map(async ({ package: name, version, manifest }) => {
      const kinds = Object.entries(manifest.contributes);
      const ids = kinds.flatMap(([kind, names]) =>
        names.map((id) => `${kind}:${manifest.scope}/${id}`),
      );
      const presence = await Promise.all(
        kinds.flatMap(([kind, names]) =>
          names.map((id) => loader.get(kind as 'adapters', `${manifest.scope}/${id}`)),
        ),
      ).then(
        () => ({ ok: true, detail: 'loads' }),
        (error: unknown) => ({ ok: false, detail: firstLine(error) }),
      );
      return { package: name, version, ids, ...presence };
    }),
  );
}

const line = (name: string, text: string | number): void =>
  console.log(printable(`  ${name.padEnd(20)} ${text}`));

function print(report: {
  readonly versions: Readonly<Record<string, string>>;
  readonly machine: Readonly<Record<string, string | number>>;
  readonly devices: Readonly<Record<string, Presence>>;
  readonly media: Readonly<Record<string, Presence>>;
  readonly plugins: readonly (Presence & {
    readonly package: string;
    readonly version: string;
    readonly ids: readonly string[];
  })[];
}): void {
  for (const part of ['versions', 'machine'] as const) {
    console.log(part);
    for (const [name, value] of Object.entries(report[part])) line(name, value);
  }
  for (const part of ['devices', 'media'] as const) {
    console.log(part);
    for (const [name, { ok, detail }] of Object.entries(report[part]))
      line(name, `${ok ? 'yes' : 'no '}  ${detail}`);
  }
  console.log('plugins');
  for (const { package: name, version, ids, ok, detail } of report.plugins)
    line(name, ok ? `${version}  ${ids.join(', ')}` : `${version}  broken: ${detail}`);
}

/** The version in the nearest package.json with one, at or above a file. */
function versionAbove(file: string): string {
  const folder = dirname(file);
  const path = join(folder, 'package.json');
  if (existsSync(path)) {
    const { version } = JSON.parse(readFileSync(path, 'utf8')) as { version?: string };
    if (version !== undefined) return version;
  }
  return folder === dirname(folder) ? 'unknown' : versionAbove(folder);
}

const firstLine = (error: unknown): string =>
  (error instanceof Error ? error.message : String(error)).split('\n')[0];
