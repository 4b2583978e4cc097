/** What was written, opened again as any other program would and run beside attune's own run. */

import { closeSync, openSync, readSync } from 'node:fs';
import { join } from 'node:path';

import { compile, type Model, standingFeeds } from '@attune/core';
import {
  AttuneError,
  bytesOf,
  f32,
  i64,
  type NDArray,
  Rng,
  type Runtime,
  type Session,
  type WeightEntry,
  Weights,
} from '@attune/engine';

import { comparison, type Outputs } from '../probe/outputs.ts';
import type { Graph } from './graph.ts';
import { outputName, type Value } from './part.ts';

/** Outputs may differ by this, relative to the largest entry. */
export const TOLERANCE = 1e-4;

export interface Checked {
  /** The largest difference between the file and attune's own run, relative to the largest entry. */
  readonly error: number;
  /** The same between attune's runs with stored and with original weights; 0 unless they were rounded. */
  readonly rounding: number;
  /** Random inputs and what attune makes of them: `<part>.in.<name>`, `<part>.out.<name>`. */
  readonly vectors: Readonly<Record<string, NDArray>>;
}

const DRAWS = 2;
const BIG = 256 * 2 ** 20;

/**
 * Runs a written part and the model itself on random inputs, strengths among them where they are inputs.
 *
 * @throws NOT_EQUAL where they differ by more than the tolerance
 */
export async function checkGraph(
  model: Model,
  graph: Graph,
  folder: string,
  runtime: Runtime,
): Promise<Checked> {
  const { name } = graph.part;
  const draws = Array.from({ length: DRAWS }, (_, draw) => drawn(model, graph.inputs, draw));
  for (const weight of graph.rounded.names()) readBack(graph.rounded.entry(weight), graph);
  const weights = Weights.overlay(model.weights, graph.rounded);
  const want = await ownRuns({ ...model, weights }, graph, draws, runtime);
  const path = join(folder, graph.file);
  const session = await runtime.load(path, graph.size > BIG ? 'mapped' : 'prepacked');
  const got = await fileRuns(session, graph, draws);
  const error = farthest(got, want);
  if (!(error <= TOLERANCE))
    throw notEqual(
      graph.file,
      `differs from attune's own run by ${error.toExponential(1)} of its output (allowed: ${TOLERANCE})`,
    );
  const plain = graph.rounded.size ? await ownRuns(model, graph, draws, runtime) : want;
  return {
    error,
    rounding: farthest(want, plain),
    vectors: Object.fromEntries([
      ...Object.entries(draws[0]).map(([key, value]) => [`${name}.in.${key}`, value]),
      ...Object.entries(want[0]).map(([key, value]) => [`${name}.out.${key}`, value]),
    ]) as Record<string, NDArray>,
  };
}

const notEqual = (file: string, what: string) =>
  new AttuneError('NOT_EQUAL', `${file} ${what}; nothing is kept.`, { file });

/** A rounded weight that attune's own run is to read from the written file must be there as it was meant. */
function readBack(entry: WeightEntry, { data }: Graph): void {
  const { name, source } = entry;
  if (!source) return;
  const bytes = Buffer.alloc(source.length);
  const handle = openSync(source.file, 'r');
  try {
    readSync(handle, bytes, 0, bytes.length, source.offset);
  } finally {
    closeSync(handle);
  }
  if (Buffer.compare(bytes, bytesOf(entry.load())) !== 0)
    throw notEqual(`${data}`, `does not hold the weight ${name} as it was written`);
}

const farthest = (got: readonly Outputs[], want: readonly Outputs[]): number =>
  Math.max(...want.map((one, i) => comparison(got[i], one)));

async function ownRuns(
  model: Model,
  { part, inputs }: Graph,
  draws: readonly Outputs[],
  runtime: Runtime,
): Promise<Outputs[]> {
  const program = compile(model, part.request, { runtime });
  const taken = new Set(inputs.map(({ name }) => name));
  try {
    const runs: Outputs[] = [];
    for (const draw of draws) {
      const outputs = await program.run({ ...standingFeeds(model, program), ...draw });
      runs.push(
        Object.fromEntries(
          Object.entries(outputs).map(([name, value]) => [outputName(name, taken), value]),
        ),
      );
    }
    return runs;
  } finally {
    await program.release();
  }
}

async function fileRuns(
  session: Session,
  { outputs }: Graph,
  draws: readonly Outputs[],
): Promise<Outputs[]> {
  const names = outputs.map(({ name }) => name);
  try {
    const runs: Outputs[] = [];
    for (const draw of draws) runs.push(await session.run(draw, names));
    return runs;
  } finally {
    await session.release();
  }
}

const prompts = ['a quick brown fox in the snow', 'make it golden'];

/** Inputs drawn by their names: normal numbers, times of the schedule, real prompts, strengths below 1. */
function drawn(model: Model, inputs: readonly Value[], draw: number): Outputs {
  const rng = Rng.of(7).fork('draw', draw);
  const last = (model.schedule?.length ?? 1000) - 1;
  return Object.fromEntries(
    inputs.map(({ name, dtype, shape }) => {
      if (dtype === 'i64') return [name, i64(ids(model, name, shape, draw), shape)];
      const values = rng.fork(name).normals(shape);
      if (name === 'timestep')
        return [name, f32(values.data.fill(Math.round(last * (0.6 - 0.5 * draw))), shape)];
      if (!name.startsWith('gate.')) return [name, values];
      return [name, f32([0.75 + 0.2 * Math.sin(values.data[0])], shape)];
    }),
  );
}

/** Prompts as ids; 0 for other whole numbers, which every table has. */
function ids(
  { tokenizer, adapters }: Model,
  name: string,
  [rows, length = 1]: readonly number[],
  draw: number,
): number[] {
  if (name !== 'input_ids') return Array.from({ length: rows * length }, () => 0);
  const own = adapters.flatMap(({ words: added = {} }) => Object.keys(added)).join(' ');
  return Array.from({ length: rows }, (_, row) => {
    const text = `${prompts[(row + draw) % prompts.length]} ${own}`;
    const known = tokenizer?.encode(text, { maxLength: Math.max(2, length) }).ids;
    return Array.from({ length }, (__, i) => known?.[i] ?? (i + row + draw) % 16);
  }).flat();
}
