/** `attune eval` of the built command, on tiny random stacks: what is printed, and what is refused. */

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

import { expect, test } from 'vitest';

import { attune } from './attune.ts';

const folder = mkdtempSync(join(tmpdir(), 'eval-'));
const stack = join(folder, 'stack.yaml');
const fixtures = resolve('test/parity/fixtures');
writeFileSync(
  stack,
  `backbone: ${fixtures}/unet/pocket
adapters: [{ use: edit, from: ${fixtures}/compose/pocket/edit }]
sampling: { steps: 2 }
`,
);

const evaluate = (...args: readonly string[]) => attune('eval', ...args);

interface Told {
  readonly rows: readonly { readonly name: string; readonly values: Record<string, number> }[];
  readonly differences: readonly {
    readonly name: string;
    readonly means: Record<string, number>;
  }[];
}

test('a stack twice: every figure is there, the differences are zero, the report is written', () => {
  const out = join(folder, 'report.json');
  const args = ['--set', 'clips=2', '--set', 'baselines=false', '--out', out];
  const { status, stdout } = evaluate('pocket', '--stack', `a=${stack}`, '--stack', stack, ...args);
  expect(status).toBe(0);
  const told = JSON.parse(readFileSync(out, 'utf8')) as Told;
  expect(told.rows.map(({ name }) => name)).toEqual(['a', 'stack']);
  expect(told.differences.map(({ name }) => name)).toEqual(['a']);
  const [row] = told.rows;
  for (const key of ['success', 'feature', 'outside', 'flicker', 'sharpness', 'motion', 'rank'])
    expect(row.values[key]).toBeGreaterThanOrEqual(0);
  for (const value of Object.values(told.differences[0].means)) expect(value).toBe(0);
  expect(stdout).toContain(row.values.outside.toFixed(2));
});

test('a full disk costs the file, not the figures', () => {
  const out = join(folder, 'full.md');
  const command = `ulimit -f 0; exec "${process.execPath}" packages/cli/bin/attune.js eval pocket --stack "${stack}"`;
  const { status, stdout, stderr } = spawnSync(
    'bash',
    ['-c', `${command} --set clips=2 --set baselines=false --out "${out}"`],
    { encoding: 'utf8', timeout: 120_000 },
  );
  expect(stdout).toMatch(/^\| stack +\|/m);
  expect(stderr).toMatch(/attune: .*full\.md: not written/);
  expect(status).toBe(1);
  expect(readdirSync(folder).filter((name) => name.includes('full'))).toEqual([]);
});

function refused(...args: readonly string[]): string {
  const { status, stderr } = evaluate(...args);
  expect(status).toBe(2);
  return stderr;
}

test('unknown suites and options, two stacks of one name', () => {
  expect(refused('pockt')).toContain('nearest: pocket');
  expect(refused('pocket', '--set', 'clip=3')).toContain('did you mean "clips"');
  expect(refused('pocket', '--set', 'clips=0')).toContain('clips');
  expect(refused('pocket', '--stack', stack, '--stack', stack)).toContain('name=file');
  expect(refused('pocket', '--stack', join(folder, 'no.yaml'))).toContain('does not exist');
});
