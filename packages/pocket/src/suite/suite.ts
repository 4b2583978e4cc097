/** The suite `pocket`: held-out edits whose exact result is known, for any number of stacks. */

import {
  type Contestant,
  Sampling,
  type SuiteContext,
  suiteKind,
  type Verdict,
} from '@attune/core';
import { AttuneError, Rng } from '@attune/engine';
import {
  bootstrapMean,
  formatReport,
  type Interval,
  meanRanks,
  type Metric,
  outsideBand,
  pairedDifference,
  type Report,
  type ReportRow,
} from '@attune/eval';
import { z } from 'zod';

import { modelsFolder } from '../folders.ts';
import { TASKS, type TaskName } from '../world/catalogue.ts';
import { metrics, type Scores, Scorer } from './score.ts';
import { baselines, stackSystem, type System } from './systems.ts';
import { trialOf } from './trial.ts';

export const PocketSuite = z.strictObject({
  /** `validation` to choose by, `test` to report, once. */
  split: z.enum(['validation', 'test']).default('validation'),
  clips: z.int().positive().default(105),
  seeds: z.array(z.int().nonnegative()).min(1).default([0]),
  /** The first trial: parts of a split can be run one after the other. */
  from: z.int().nonnegative().default(0),
  baselines: z.boolean().default(true),
  /** How the baselines are run, all by DDIM. */
  sampling: Sampling.omit({ sampler: true }).prefault({}),
  /** The contestant whose differences from all others are told. Default: the last. */
  against: z.string().optional(),
});
export type PocketSuite = z.infer<typeof PocketSuite>;

/** Scores of a system by seed and clip. */
type Table = readonly (readonly Scores[])[];

const keys = metrics.map(({ key }) => key);
type Key = (typeof keys)[number];

const column = (table: Table, key: Key): number[][] =>
  table.map((clips) => clips.map((scores) => scores[key]));

export const pocketSuite = suiteKind({
  options: PocketSuite,
  run: async (contestants, options, context) => {
    const systems = await systemsOf(contestants, options, context);
    if (systems.length === 0)
      throw new AttuneError(
        'BAD_ARGUMENT',
        'There is nothing to measure: name a stack (--stack name=file), or leave the baselines in.',
      );
    const scorer = await Scorer.open(modelsFolder(), context.runtime);
    const tables = new Map<string, Scores[][]>(systems.map(({ name }) => [name, []]));
    let done = 0;
    try {
      for (const [s, seed] of options.seeds.entries())
        for (let k = 0; k < options.clips; k++) {
          const trial = trialOf(options.split, options.from + k);
          for (const system of systems) {
            const scores = await scorer.score(trial, await system.edit(trial, seed));
            (tables.get(system.name)![s] ??= [])[k] = scores;
            context.onProgress?.(++done, systems.length * options.clips * options.seeds.length);
          }
        }
    } finally {
      await scorer.release();
      for (const system of systems) await system.release();
    }
    return told(tables, options, new Set(contestants.map(({ name }) => name)));
  },
});

async function systemsOf(
  contestants: readonly Contestant[],
  { baselines: wanted, sampling }: PocketSuite,
  context: SuiteContext,
): Promise<System[]> {
  const own = contestants.map(stackSystem);
  return wanted ? [...(await baselines(context, sampling)), ...own] : own;
}

/** What the mean rank is taken over: motion by how far its ratio lies outside of 0.8 – 1.2. */
const ranked: readonly Metric[] = [
  ...metrics,
  { key: 'band', label: 'motion outside 0.8 – 1.2', better: 'lower' },
];

function told(
  tables: ReadonlyMap<string, Table>,
  { split, clips, seeds, from, against }: PocketSuite,
  contestants: ReadonlySet<string>,
): Verdict {
  const rng = Rng.of(0).fork('bootstrap');
  const rows = [...tables].map(([name, table]) => {
    const found = Object.fromEntries(
      keys.map((key) => [key, bootstrapMean(column(table, key), rng.fork(name, key))]),
    );
    const values = Object.fromEntries(keys.map((key) => [key, found[key].mean]));
    return {
      name,
      values: { ...values, band: outsideBand(found.motion.mean) },
      intervals: Object.fromEntries(keys.map((key) => [key, found[key]])),
    };
  });
  const ranks = meanRanks({ metrics: ranked, rows });
  const report: Report = {
    title: `# pocket, ${split}: ${clips} clips × ${seeds.length} seed(s), 95 % intervals of clips within seeds`,
    metrics: [...metrics, { key: 'rank', label: 'mean rank', better: 'lower' }],
    rows: rows.map((row, i) => ({ ...row, values: { ...row.values, rank: ranks[i] } })),
  };
  const tasks: Report = {
    title: '## edit success (%), by task',
    metrics: TASKS.map((task) => ({ key: task, label: task, digits: 1 })),
    rows: [...tables].map(([name, table]) => ({ name, ...byTask(table, from) })),
  };
  const last = against ?? [...tables.keys()].at(-1)!;
  const differences = [...tables.keys()]
    .filter((name) => name !== last)
    .map((name) => ({ name, ...versus(tables, last, name, rng) }));
  const compared: Report = {
    title: `## ${last}, minus each of the others (paired)`,
    metrics: [...metrics],
    rows: differences.map(({ name, means, intervals }) => ({ name, values: means, intervals })),
  };
  return {
    text: [report, ...(differences.length ? [compared] : []), tasks].map(formatReport).join('\n\n'),
    data: {
      split,
      clips,
      seeds,
      from,
      rows: report.rows,
      against: last,
      differences,
      tasks: tasks.rows,
      scores: Object.fromEntries(tables),
    },
    order: report.rows
      .filter(({ name }) => contestants.has(name))
      .toSorted((a, b) => a.values.rank - b.values.rank)
      .map(({ name }) => name),
  };
}

/** Edit success for each task, and how many clips of each there were. */
function byTask(table: Table, from: number): Pick<ReportRow, 'values' | 'intervals'> {
  const of = (k: number): TaskName => TASKS[(from + k) % TASKS.length];
  const found = TASKS.filter((_, k) => k < table[0].length).map((_, k) => {
    const task = of(k);
    const clips = table.map((scores) => scores.filter((__, other) => of(other) === task));
    return [task, bootstrapMean(column(clips, 'success'), Rng.of(0).fork('tasks', task))] as const;
  });
  return {
    values: Object.fromEntries(found.map(([task, { mean }]) => [task, mean])),
    intervals: Object.fromEntries(found),
  };
}

function versus(
  tables: ReadonlyMap<string, Table>,
  one: string,
  other: string,
  rng: Rng,
): { means: Record<string, number>; intervals: Record<string, Interval> } {
  const [a, b] = [one, other].map((name) => tables.get(name)!);
  const intervals = Object.fromEntries(
    keys.map((key) => [
      key,
      pairedDifference(column(a, key), column(b, key), rng.fork(one, other, key)),
    ]),
  );
  const means = Object.fromEntries(keys.map((key) => [key, intervals[key].mean]));
  return { means, intervals };
}
