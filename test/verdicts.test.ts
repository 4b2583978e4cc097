/** What a verdict says beside loadable or refused: what is taken for granted, by which name, and what does nothing. */

import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { findPlugins, PluginLoader } from '@attune/core';
import { openSafetensors, writeSafetensors, zeros } from '@attune/engine';
import { expect, test } from 'vitest';

import { inspect, type Verdict } from '../packages/cli/src/inspect/verdict.ts';
import { attune } from './attune.ts';

const fixtures = 'test/parity/fixtures';
const loader = new PluginLoader(findPlugins('packages/cli'));

const verdictOn = (path: string): Promise<Verdict> => inspect(path, { loader });

test.each(['compose/pocket/video', 'checkpoints/motion.ckpt'])(
  'how the group norms of motion modules are taken, and the option that takes them otherwise: %s',
  async (file) => {
    const { verdict, chosen } = await verdictOn(join(fixtures, file));
    expect(verdict).toBe('loadable');
    expect(chosen).toMatch(/over all frames of a clip, as diffusers/);
    expect(chosen).toMatch(/norm: per_frame in the stack entry/);
  },
);

test.each([
  ['pocket', 'model', /unet/],
  ['pocket/aligned', 'stack', /align/],
])('what the project brings is inspected by its name: %s', async (name, kind, algorithm) => {
  expect(await verdictOn(name)).toMatchObject({
    file: name,
    verdict: 'loadable',
    kind,
    algorithm: expect.stringMatching(algorithm) as string,
    modules: { unmatched: 0, misshaped: 0 },
  });
}, 60_000);

test('a name that is none is told which there are', async () => {
  const { fix } = await verdictOn('pocket/alinged');
  expect(fix).toMatch(/pocket\/aligned/);
});

test('modules without effect are named, by inspect and by compose', () => {
  const source = openSafetensors(`${fixtures}/compose/pocket/look.safetensors`);
  const names = [...source.tensors.keys()];
  const ups = names.filter((name) => name.endsWith('lora_B.weight')).slice(0, 5);
  const tensors = names.map(
    (name) =>
      [name, ups.includes(name) ? zeros(source.read(name).shape) : source.read(name)] as const,
  );
  const path = join(mkdtempSync(join(tmpdir(), 'idle-')), 'look.safetensors');
  writeSafetensors(path, Object.fromEntries(tensors), source.metadata);
  const modules = ups.map((name) => name.replace('.lora_B.weight', ''));
  const first = `${modules.slice(0, 3).join(', ')} and 2 more`;
  expect(JSON.parse(attune('inspect', path, '--json').stdout)).toMatchObject({
    modules: { zeroEffect: 5 },
    idle: modules,
  });
  expect(attune('inspect', path).stdout).toContain(first);
  const base = `${fixtures}/unet/pocket`;
  const { status, stderr } = attune('compose', base, path, '--check', '--no-proof');
  expect(status).toBe(0);
  expect(stderr).toContain(`5 of 103 modules of lora change nothing, all zero: ${first}`);
}, 60_000);
