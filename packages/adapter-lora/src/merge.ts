/** Several adapters of the family as one file: what they change, each times its strength, summed. */

import { type MergeRequest, numberAt, type Written } from '@attune/core';
import { AttuneError, f32, type NDArray, sameShape, toF32, Weights } from '@attune/engine';

import { type AlgorithmName, biases } from './algorithms.ts';
import { magnitudeOf } from './dora.ts';
import { readLora } from './formats.ts';
import type { Module } from './lora.ts';
import { spelledAs, times } from './write.ts';

/** What one adapter does at a layer. */
interface Act {
  readonly adapter: string;
  readonly module: Module;
  readonly strength: number;
  readonly load: (leaf: string) => NDArray;
}

interface Merged {
  readonly module: Module;
  readonly tensors: Readonly<Record<string, NDArray>>;
}

/**
 * At a layer with plain LoRAs alone their matrices are put side by side, which is exact: the rank is the
 * sum of the ranks, alpha equals it. Plain differences are summed. Anything else stays as it is, and so
 * has to be alone at its layer.
 *
 * @throws NOT_EXPRESSIBLE for what has no exact sum, or no name in the dialect
 */
export function mergeLora({ parts, model, dialect }: MergeRequest): Written {
  const acts = new Map<string, Act[]>();
  for (const { name, file, strength: given } of parts) {
    const { modules, weights } = readLora(file, model);
    for (const [address, module] of modules) {
      const strength = numberAt(given, address);
      if (strength === undefined)
        throw notExpressible(
          address,
          `the strength of ${name} changes there over steps, frames or pixels, which no file can say`,
        );
      if (strength === 0) continue;
      const load = (leaf: string) => weights.entry(`${address}.${leaf}`).load();
      const there = acts.get(address) ?? [];
      acts.set(address, [...there, { adapter: name, module, strength, load }]);
    }
  }
  const modules = new Map<string, Module>();
  const tensors: Record<string, NDArray> = {};
  for (const [address, own] of acts) {
    const merged = sumOf(address, own, model.weights.entry(`${address}.weight`).shape);
    modules.set(address, merged.module);
    for (const [leaf, value] of Object.entries(merged.tensors))
      tensors[`${address}.${leaf}`] = value;
  }
  return spelledAs(dialect, { modules, weights: Weights.fromArrays(tensors) }, model);
}

function sumOf(address: string, acts: readonly Act[], shape: readonly number[]): Merged {
  if (acts.every(({ module }) => isPlain(module))) return sideBySide(acts, shape);
  if (acts.length === 1) return scaled(address, acts[0]);
  const differences = acts.every(({ module: { algorithm, leaves } }) => {
    const [first] = acts;
    return (
      algorithm === 'full' &&
      !isMagnified(leaves) &&
      leaves.size === first.module.leaves.size &&
      [...leaves].every(([leaf, own]) => sameShape(own, first.module.leaves.get(leaf) ?? []))
    );
  });
  if (differences) return summed(acts.map((act) => scaled(address, act)));
  throw notExpressible(
    address,
    `${acts.map(({ adapter, module }) => `${adapter} (${module.algorithm})`).join(' and ')} act there together`,
  );
}

const isPlain = ({ algorithm, leaves }: Module): boolean =>
  algorithm === 'lora' && leaves.size === 2;

const isMagnified = (leaves: Module['leaves']): boolean =>
  magnitudeOf((leaf) => leaves.has(leaf)) !== undefined;

/** Σ sᵢ · (αᵢ / rᵢ) · Bᵢ Aᵢ as [… sᵢ αᵢ / rᵢ · Bᵢ …] · [… Aᵢ …]. */
function sideBySide(acts: readonly Act[], [out, ...into]: readonly number[]): Merged {
  const ranks = acts.map(({ module }) => module.rank);
  const rank = ranks.reduce((a, b) => a + b, 0);
  const width = into.reduce((a, b) => a * b, 1);
  const down = new Float32Array(rank * width);
  const up = new Float32Array(out * rank);
  let at = 0;
  for (const { module, strength, load } of acts) {
    const [a, b] = ['lora_A.weight', 'lora_B.weight'].map((leaf) => toF32(load(leaf)).data);
    const by = (strength * module.alpha) / module.rank;
    down.set(a, at * width);
    for (let row = 0; row < out; row++)
      for (let k = 0; k < module.rank; k++) up[row * rank + at + k] = by * b[row * module.rank + k];
    at += module.rank;
  }
  const shapes = {
    'lora_A.weight': [rank, ...into],
    'lora_B.weight': [out, rank, ...into.slice(1).map(() => 1)],
  };
  return {
    module: { algorithm: 'lora', rank, alpha: rank, leaves: new Map(Object.entries(shapes)) },
    tensors: {
      'lora_A.weight': f32(down, shapes['lora_A.weight']),
      'lora_B.weight': f32(up, shapes['lora_B.weight']),
    },
  };
}

/** The tensors that a module's change is proportional to, one at a time; the first one there is scaled. */
const proportional: Readonly<Record<AlgorithmName, readonly string[]>> = {
  lora: ['lora_B.weight'],
  loha: ['hada_w1_a'],
  lokr: ['lokr_w1', 'lokr_w1_a'],
  full: ['diff'],
};

/** One module times its strength, in its own form. */
function scaled(address: string, { adapter, module, strength, load }: Act): Merged {
  const { algorithm, leaves } = module;
  if (strength !== 1 && isMagnified(leaves))
    throw notExpressible(
      address,
      `${adapter} sets magnitudes there (DoRA), which no strength but 1 is part of`,
    );
  const first = proportional[algorithm].find((leaf) => leaves.has(leaf));
  const tensors = Object.fromEntries(
    [...leaves.keys()].map((leaf) => {
      const value = load(leaf);
      const grows = leaf === first || biases.some((bias) => bias === leaf);
      return [leaf, grows ? times(value, strength) : value];
    }),
  );
  return { module, tensors };
}

function summed(all: readonly Merged[]): Merged {
  const [{ module }] = all;
  const tensors = Object.fromEntries(
    [...module.leaves].map(([leaf, shape]) => {
      const values = all.map(({ tensors: own }) => toF32(own[leaf]).data);
      return [
        leaf,
        f32(
          values[0].map((_, i) => values.reduce((sum, v) => sum + v[i], 0)),
          shape,
        ),
      ];
    }),
  );
  return { module, tensors };
}

const notExpressible = (address: string, why: string) =>
  new AttuneError(
    'NOT_EXPRESSIBLE',
    `No file says exactly what the stack does at ${address}: ${why}. Write it as plain LoRA first: attune convert FILE --rank N.`,
    { address },
  );
