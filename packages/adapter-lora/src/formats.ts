/** LoRA files in the wild, module by module, and as an adapter of a model. */

import { type AdapterFile, type FileExtras, layerNames, type Model } from '@attune/core';
import { AttuneError, nearest, type Shape, type Weights } from '@attune/engine';

import { type AlgorithmName, algorithmOf, algorithms } from './algorithms.ts';
import type { Module } from './lora.ts';
import { type Dialect, dialectOf, resolver, spelled } from './names.ts';
import { scales } from './scale.ts';

/** A module as it lies in a file. */
export interface FileModule {
  /** As the file spells it. */
  readonly name: string;
  readonly dialect: Dialect;
  /** Its keys in the file, by leaf. */
  readonly keys: ReadonlyMap<string, string>;
  /** Undefined where its tensors make none. */
  readonly algorithm: AlgorithmName | undefined;
}

/** The modules of a file, and the keys that belong to none. */
export function modulesOf(names: Iterable<string>): {
  readonly modules: readonly FileModule[];
  readonly strays: readonly string[];
} {
  const gathered = new Map<string, { dialect: Dialect; keys: Map<string, string> }>();
  const strays: string[] = [];
  for (const key of names) {
    const read = spelled(key);
    if (!read) {
      strays.push(key);
      continue;
    }
    const module = gathered.get(read.module) ?? { dialect: dialectOf(key, read), keys: new Map() };
    gathered.set(read.module, module);
    if (module.keys.has(read.leaf)) strays.push(key);
    else module.keys.set(read.leaf, key);
  }
  const modules = [...gathered].map(([name, { dialect, keys }]) => {
    const has = (leaf: string): boolean => keys.has(leaf);
    const algorithm = algorithmOf(has);
    const whole = algorithm !== undefined && algorithms[algorithm].complete(has);
    return { name, dialect, keys, algorithm: whole ? algorithm : undefined };
  });
  return { modules, strays };
}

/** What an adapter is made of: the tensors of its modules under addresses of a model. */
export interface LoraFile {
  /** `<address>.<leaf>`. */
  readonly weights: Weights;
  readonly modules: ReadonlyMap<string, Module>;
  /** The key in the file of one of `weights`: the table read backwards. */
  readonly fileKey: (name: string) => string;
  readonly fileExtras: FileExtras;
}

/**
 * Reads a file of any dialect and algorithm against a model. Every tensor must belong to a module that
 * the model has a layer for; rank and alpha are per module.
 *
 * @throws NOT_LORA, SAVED_WHOLE, UNMATCHED_WEIGHTS, BROKEN_MODULE, DOUBLE_MODULE
 */
export function readLora(file: AdapterFile, model: Model): LoraFile {
  const { modules: found, strays } = modulesOf(file.weights.names());
  if (found.length === 0)
    throw new AttuneError(
      'NOT_LORA',
      `${file.path} holds no low-rank matrices (first name: ${strays[0]}).`,
    );
  const layers = layerNames(model);
  const find = resolver(layers);
  const scaleOf = scales(file);
  const modules = new Map<string, Module>();
  const keys = new Map<string, string>();
  const lost = [...strays];
  for (const module of found) {
    const address = find(module.name);
    if (address === undefined) lost.push(...module.keys.values());
    else {
      if (modules.has(address))
        refuse('DOUBLE_MODULE', file, module, `is there twice (${address})`);
      modules.set(address, readModule(file, module, scaleOf));
      for (const [leaf, key] of module.keys)
        if (leaf !== 'alpha') keys.set(`${address}.${leaf}`, key);
    }
  }
  const whole = savedWhole(strays);
  if (whole)
    throw new AttuneError('SAVED_WHOLE', `${file.path}: ${whole.reason}; ${whole.fix}.`, {
      lost: strays,
    });
  if (lost.length) throw unmatched(file, lost, layers.keys());
  const alphas = found.flatMap((module) => module.keys.get('alpha') ?? []);
  const renamed = new Map([...keys].map(([name, key]) => [key, name]));
  return {
    weights: file.weights.renamed((key) => renamed.get(key)),
    modules,
    fileKey: (name) => keys.get(name) ?? name,
    fileExtras: {
      metadata: file.metadata,
      tensors: Object.fromEntries(alphas.map((key) => [key, file.weights.entry(key).load()])),
    },
  };
}

/** A layer of PEFT's `modules_to_save`, whatever version saved it, and not a part of an adapter's module. */
const saved =
  /^base_model\.model\.((?!.*\.lora_).+?)(?:\.modules_to_save(?:\.\w+)?)?\.(?:weight|bias)$/;

/** Why layers that were trained whole beside low-rank ones are refused, and the way out; undefined where there are none. */
export function savedWhole(
  strays: readonly string[],
): { readonly reason: string; readonly fix: string } | undefined {
  const layers = [...new Set(strays.flatMap((key) => saved.exec(key)?.[1] ?? []))];
  if (layers.length === 0) return undefined;
  const [first, second, ...rest] = layers;
  const named = [first, ...(second ? [second] : []), ...(rest.length ? ['…'] : [])].join(', ');
  return {
    reason: `it holds layers that PEFT trained and saved whole (modules_to_save or bias): ${named} (${layers.length}), which no change of low rank is`,
    fix: 'merge it into its model with PEFT (merge_and_unload) and take that as the backbone, or train it without them',
  };
}

/** One module of a file, its algorithm, shapes and scale. */
export function readModule(
  file: AdapterFile,
  module: FileModule,
  scaleOf: ReturnType<typeof scales>,
): Module {
  const { name, keys, algorithm } = module;
  if (algorithm === undefined)
    return refuse('BROKEN_MODULE', file, module, `has only ${[...keys.keys()].join(', ')}`, {
      lost: [...keys.values()],
    });
  const leaves = new Map<string, Shape>();
  for (const [leaf, key] of keys)
    if (leaf !== 'alpha') leaves.set(leaf, file.weights.entry(key).shape);
  const ranked = algorithms[algorithm].ranked((leaf) => leaves.has(leaf));
  const rank = ranked === undefined ? undefined : leaves.get(ranked)![0];
  return { algorithm, leaves, ...scaleOf(name, keys.get('alpha'), rank) };
}

function refuse(
  code: string,
  { path }: AdapterFile,
  { name }: FileModule,
  what: string,
  facts: Readonly<Record<string, unknown>> = {},
): never {
  throw new AttuneError(code, `${path}: the module ${name} ${what}; is the file whole?`, {
    path,
    name,
    ...facts,
  });
}

function unmatched(
  { path, weights }: AdapterFile,
  lost: readonly string[],
  layers: Iterable<string>,
): AttuneError {
  const count = [...weights.names()].length;
  return new AttuneError(
    'UNMATCHED_WEIGHTS',
    `${path}: ${lost.length} of ${count} tensors fit no layer of the model, first ${lost[0]}; nearest layers: ${nearest(lost[0], layers, 3).join(', ')}.`,
    { lost },
  );
}
