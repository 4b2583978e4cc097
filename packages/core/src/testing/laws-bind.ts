/** Laws of what an adapter owns: its parameters, its gradients, its ports. Nothing else. */

import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { type Adapter, type Model, type Port, traceNet, trainableInputs } from '@attune/core';
import {
  AttuneError,
  bytesOf,
  type F32Array,
  type NDArray,
  Rng,
  type Shape,
  Weights,
  writeSafetensors,
} from '@attune/engine';

import { type Bench, sameBits } from './bench.ts';
import { fails, holds, type Law } from './law.ts';

/** The adapter's parameters in the traced net, by full name. */
const ownParams = (bench: Bench, model: Model, { name }: Adapter): string[] => {
  const { trace } = traceNet(model, { net: bench.net, dims: bench.dims });
  return [...trace.params.keys()].filter((param) => param.startsWith(`${name}.`));
};

const digest = (weights: Weights): string => {
  const hash = createHash('sha256');
  for (const name of weights.names()) hash.update(name).update(bytesOf(weights.entry(name).load()));
  return hash.digest('hex');
};

const saved: Law = {
  name: 'saving and loading is exact to the bit',
  check: async ({ bench, make }) => {
    const adapter = make();
    const model = bench.moved(adapter);
    const tensors: Record<string, NDArray> = {};
    for (const name of ownParams(bench, model, adapter))
      tensors[name.slice(adapter.name.length + 1)] = model.weights.entry(name).load();
    const folder = mkdtempSync(join(tmpdir(), 'attune-law-'));
    try {
      const file = join(folder, 'adapter.safetensors');
      writeSafetensors(file, tensors);
      const loaded = bench.fresh(make({ weights: Weights.fromFile(file) }));
      const other = Object.keys(tensors).filter((name) => {
        const again = loaded.weights.entry(`${adapter.name}.${name}`).load();
        return !Buffer.from(bytesOf(again)).equals(bytesOf(tensors[name]));
      });
      if (other.length) return fails(`other values after loading: ${other.join(', ')}`);
      return sameBits(await bench.run(loaded), await bench.run(model))
        ? holds(`${Object.keys(tensors).length} tensors`)
        : fails('the loaded adapter gives other bits');
    } finally {
      rmSync(folder, { recursive: true });
    }
  },
};

const readOnly: Law = {
  name: 'the base weights are read, never written, and its own lie under its name',
  check: async ({ bench, make }) => {
    const before = digest(bench.base.weights);
    const adapter = make({ train: true });
    const model = bench.moved(adapter);
    await bench.run(model);
    if (digest(bench.base.weights) !== before) return fails('base weights changed');
    const strays = [...model.weights.names()].filter(
      (name) => !bench.base.weights.has(name) && !name.startsWith(`${adapter.name}.`),
    );
    if (strays.length) return fails(`parameters outside its name: ${strays.join(', ')}`);
    const kept = model.weights.renamed((name) => (bench.base.weights.has(name) ? name : undefined));
    return digest(kept) === before ? holds('same bytes') : fails('it replaces base weights');
  },
};

const gradients: Law = {
  name: 'the gradient reaches every parameter of it and nothing else',
  check: async ({ bench, make }) => {
    const adapter = make({ train: true });
    const model = bench.moved(adapter);
    const own = ownParams(bench, model, adapter);
    return bench.with(model, async (program) => {
      const live = [...program.inputs].flatMap(([name, t]) =>
        t.op.name === 'param' ? [name] : [],
      );
      const foreign = live.filter((name) => !own.includes(name));
      if (foreign.length) return fails(`it trains what is not its own: ${foreign.join(', ')}`);
      const trained = trainableInputs(model, program);
      const idle = own.filter((name) => !trained.includes(name));
      if (idle.length) return fails(`no output depends on ${idle.join(', ')}`);
      const cotangents = Object.fromEntries(
        Object.entries(program.outputs).map(([name, { shape }]) => [
          name,
          Rng.of(5).fork(name).normals(shape),
        ]),
      );
      const { grads } = await program.sweep(trained).run(bench.feeds(model, program), cotangents);
      const lost = trained.filter((name) => !reached(grads[name]));
      return lost.length
        ? fails(`no finite gradient reaches ${lost.join(', ')}`)
        : holds(`${trained.length} parameters`);
    });
  },
};

const reached = ({ data }: F32Array): boolean =>
  data.some((value) => value !== 0) && data.every((value) => Number.isFinite(value));

const ports: Law = {
  name: 'every port is read, typed and checked, and required or defaulted',
  check: async ({ bench, make }) => {
    const adapter = make();
    const model = bench.moved(adapter);
    const declared = Object.entries(adapter.ports ?? {});
    const wrong: string[] = [];
    for (const [name, port] of declared)
      for (const fault of await portFaults(bench, model, `${adapter.name}.${name}`, port))
        wrong.push(`${adapter.name}.${name} ${fault}`);
    return wrong.length ? fails(wrong.join('; ')) : holds(`${declared.length} ports`);
  },
};

async function portFaults(bench: Bench, model: Model, name: string, port: Port): Promise<string[]> {
  const { B, F } = bench.dims;
  const row = port.shape(bench.dims);
  const allowed = port.per === 'clip' ? [B, 1, B * F] : [F, B * F];
  const shapesOf = (rows: number): Record<string, Shape> => ({ [name]: [rows, ...row] });
  const faults: string[] = [];
  const refusal = async (code: string, what: string, act: () => Promise<unknown>) => {
    const got = await failure(act());
    if (got === undefined) faults.push(`${what}: accepted, should be ${code}`);
    else if (!AttuneError.is(got)) faults.push(`${what}: ${got.message}, should be ${code}`);
    else if (got.code !== code) faults.push(`${what}: ${got.code}, should be ${code}`);
    else if (!got.message.includes(name)) faults.push(`${what}: the error does not name it`);
  };
  const run = (rows: number, change: (feeds: Record<string, NDArray>) => void = () => {}) =>
    bench.with(
      model,
      async (program) => {
        if (!program.inputs.has(name))
          throw new AttuneError('UNREAD', `${name} is read by nothing`);
        const feeds = bench.feeds(model, program);
        change(feeds);
        return program.run(feeds);
      },
      shapesOf(rows),
    );

  await refusal('MISSING_INPUT', 'left out', () => run(allowed[0], (feeds) => delete feeds[name]));
  await refusal('INPUT_SHAPE', 'of a wrong shape', () =>
    run(allowed[0], (feeds) => {
      feeds[name] = Rng.of(1).normals([...feeds[name].shape, 1]);
    }),
  );
  await refusal('PORT_ROWS', 'of a wrong number of rows', () => run(B * F + 1));
  for (const rows of allowed) {
    const error = await failure(run(rows));
    // Values of a clip need not mean anything for its frames.
    const refused = rows === B * F && AttuneError.is(error) && error.code === 'PORT_ROWS';
    if (error && !refused) faults.push(`of ${rows} rows: ${error.message}`);
  }
  if (port.defaultTo !== undefined) {
    const known = Object.keys(model.nets[bench.net].signature(bench.dims));
    if (!known.includes(port.defaultTo)) faults.push(`defaults to no input: ${port.defaultTo}`);
    await bench.run(model);
  }
  return faults;
}

/** What a promise is rejected with. */
const failure = (act: Promise<unknown>): Promise<Error | undefined> =>
  act.then(
    () => undefined,
    (error: unknown) => (error instanceof Error ? error : new Error(String(error))),
  );

export const bindLaws = [saved, readOnly, gradients, ports];
