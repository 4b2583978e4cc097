/** An adapter outside the workspace packages, loaded by name and held to every law. */

import { spawnSync } from 'node:child_process';
import { join } from 'node:path';

import type { Finding } from '@attune/core/testing';
import { describe, expect, test } from 'vitest';

const folder = 'test/plugins/image-prompt';

interface Report {
  readonly plugins: readonly string[];
  readonly adapters: readonly { readonly name: string; readonly strength: number }[];
  readonly inputs: readonly string[];
  readonly own: number;
  readonly shape: readonly number[];
  readonly finite: boolean;
  /** Which stacks emit the bytes of the backbone. */
  readonly backboneBytes: Readonly<Record<string, boolean>>;
  readonly findings: readonly Finding[];
}

describe('a plugin of a stranger', () => {
  test('opens by name from a stack file, runs, and keeps every law', () => {
    const { stdout, stderr, status } = spawnSync(process.execPath, [join(folder, 'open.mjs')], {
      encoding: 'utf8',
    });
    expect(stderr).toBe('');
    expect(status).toBe(0);
    const report = JSON.parse(stdout) as Report;
    expect(report.plugins).toContain('attune-image-prompt');
    expect(report.adapters).toEqual([{ name: 'look', strength: 0.5 }]);
    expect(report.inputs).toEqual(expect.arrayContaining(['look.tokens', 'gate.look']));
    expect(report.own).toBeGreaterThan(2);
    expect(report.shape).toEqual([2, 4, 8, 8]);
    expect(report.finite).toBe(true);
    expect(report.backboneBytes).toEqual({
      'no adapter': true,
      'strength 0': true,
      'strength 0.5': false,
    });
    expect(report.findings.filter(({ ok }) => !ok)).toEqual([]);
    expect(report.findings.length).toBeGreaterThan(10);
  }, 60_000);
});
