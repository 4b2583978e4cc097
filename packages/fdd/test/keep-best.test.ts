/** Which of a run's candidates becomes its result. */

import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import {
  type Contestant,
  ddimPlan,
  type Model,
  PluginLoader,
  Sampling,
  type SuiteKind,
  suiteKind,
} from '@attune/core';
import { OrtRuntime, Weights } from '@attune/engine';
import { describe, expect, test } from 'vitest';
import { z } from 'zod';

import { Candidates, KeepBestConfig } from '../src/keep-best.ts';

const runtime = new OrtRuntime({ threads: 1 });
const bare: Model = { nets: {}, adapters: [], weights: Weights.fromArrays({}) };
const valueOf = ({ models }: Contestant): number =>
  models.stack.model.weights.entry('align.w').load().data[0] as number;

/** Best is whose parameter is nearest to the option `goal`. */
const nearest = suiteKind({
  options: z.strictObject({ goal: z.number() }),
  run: async (contestants, { goal }) => {
    const off = (one: Contestant): number => Math.abs(valueOf(one) - goal);
    const order = contestants.toSorted((a, b) => off(a) - off(b)).map(({ name }) => name);
    return { text: order.join(' < '), data: order, order };
  },
});

const loaderOf = (kind: SuiteKind): PluginLoader =>
  Object.assign(new PluginLoader([]), { get: async () => kind });

const params = (value: number) => ({ 'align.w': new Float32Array([value, 0]) });

async function chosen(suite: SuiteKind, options: Record<string, unknown>) {
  const candidates = new Candidates(mkdtempSync(join(tmpdir(), 'keep-')), () => [2]);
  candidates.save(50, params(1));
  candidates.save(100, params(7));
  candidates.save(100, params(2)); // a resumed run does a step again
  const config = KeepBestConfig.parse({ every: 50, suite: { use: 'a/suite', ...options } });
  return candidates.choose(config, params(0), {
    student: bare,
    stills: bare,
    sampling: Sampling.parse({}),
    sampler: ddimPlan,
    loader: loaderOf(suite),
    context: { runtime, open: async () => bare },
  });
}

describe('the candidate kept', () => {
  test.each([
    [0.4, 0],
    [1.1, 50],
    [9, 100],
  ])('is the one the suite likes best: goal %d, step %d', async (goal, step) => {
    const choice = await chosen(nearest, { goal });
    expect(choice.step).toBe(step);
    expect(choice.params['align.w'][0]).toBe([0, 1, 2][step / 50]);
    expect(choice.text.split(' < ')).toHaveLength(3);
  });

  test("has the suite's options checked", async () => {
    await expect(chosen(nearest, { gaol: 1 })).rejects.toThrow(/keep_best.suite.*gaol/);
  });

  test('is one of the contestants', async () => {
    const odd = suiteKind({
      options: z.looseObject({}),
      run: async () => ({ text: '', data: {}, order: ['nobody'] }),
    });
    await expect(chosen(odd, {})).rejects.toThrow(/"nobody" as the best/);
  });
});
