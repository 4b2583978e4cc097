/** Any module as plain low-rank matrices, the nearest there are: for tools that know nothing else. */

import type { Model } from '@attune/core';
import {
  AttuneError,
  type NDArray,
  param,
  Program,
  type Runtime,
  toF32,
  Weights,
} from '@attune/engine';

import { biases } from './algorithms.ts';
import type { LoraFile } from './formats.ts';
import { type Module, weightChange } from './lora.ts';
import { lowRank } from './low-rank.ts';

export interface Approximated {
  readonly file: LoraFile;
  /** ‖Δ − up · down‖ / ‖Δ‖ over all modules together, Frobenius. */
  readonly error: number;
}

/**
 * Every module as LoRA of at most this rank. Modules that are plain LoRA already stay as they are.
 *
 * @throws NOT_EXPRESSIBLE for a change of a bias or of a norm, which no low-rank matrix makes
 */
export async function approximated(
  read: LoraFile,
  model: Model,
  { rank, runtime }: { rank: number; runtime: Runtime },
): Promise<Approximated> {
  const modules = new Map<string, Module>();
  const tensors: Record<string, NDArray> = {};
  let [far, all] = [0, 0];
  for (const [address, module] of read.modules) {
    if (module.algorithm === 'lora' && module.leaves.size === 2) {
      modules.set(address, module);
      for (const leaf of module.leaves.keys())
        tensors[`${address}.${leaf}`] = read.weights.entry(`${address}.${leaf}`).load();
      continue;
    }
    const delta = await changeOf(address, module, read, model, runtime);
    const [out, ...into] = delta.shape;
    const data = Float64Array.from(toF32(delta).data);
    const norm = data.reduce((sum, value) => sum + value ** 2, 0);
    const { up, down, error } = lowRank({ rows: out, columns: data.length / out, data }, rank);
    far += error ** 2 * norm;
    all += norm;
    const kernel = into.slice(1).map(() => 1);
    const shapes = {
      'lora_A.weight': [down.rows, ...into],
      'lora_B.weight': [out, up.columns, ...kernel],
    };
    for (const [leaf, { data: values }] of [
      ['lora_A.weight', down],
      ['lora_B.weight', up],
    ] as const)
      tensors[`${address}.${leaf}`] = {
        dtype: 'f32',
        shape: shapes[leaf],
        data: Float32Array.from(values),
      };
    modules.set(address, {
      algorithm: 'lora',
      rank: down.rows,
      alpha: down.rows,
      leaves: new Map(Object.entries(shapes)),
    });
  }
  return {
    file: { ...read, modules, weights: Weights.fromArrays(tensors) },
    error: all === 0 ? 0 : Math.sqrt(far / all),
  };
}

/** W′ − W of one module, as numbers. */
async function changeOf(
  address: string,
  { algorithm, rank, alpha, leaves }: Module,
  { weights }: LoraFile,
  model: Model,
  runtime: Runtime,
): Promise<NDArray> {
  const { shape } = model.weights.entry(`${address}.weight`);
  if (biases.some((leaf) => leaves.has(leaf)) || shape.length < 2)
    throw new AttuneError(
      'NOT_EXPRESSIBLE',
      `The module at ${address} changes a bias or a norm; no low-rank matrix does that.`,
      { address },
    );
  const weight = param(`${address}.weight`, shape);
  const delta = weightChange(
    { algorithm, scale: alpha / rank },
    (leaf) => param(`own.${address}.${leaf}`, leaves.get(leaf)!),
    (leaf) => leaves.has(leaf),
    weight,
    address,
  );
  const known = Weights.overlay(model.weights, weights.prefixed('own.'));
  const program = new Program({ outputs: { delta }, marks: [] }, { runtime, weights: known });
  try {
    return (await program.run({})).delta;
  } finally {
    await program.release();
  }
}
