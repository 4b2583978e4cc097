/** What a checkpoint holds, module by module, and how it fits a model: the ground of `attune inspect`. */

import { AttuneError, sameShape, scan, type Shape, type Weights } from '@attune/engine';

import { compose, inventory } from '../adapters/compose.ts';
import type { Model } from '../models/model.ts';
import { nominalDims } from '../models/net.ts';
import { checkFile } from '../stack/schema.ts';
import { createPartly, type Skipped } from './partial.ts';
import type { AdapterFile, AdapterKind } from './plugin.ts';

/**
 * Whether a module of a file finds its place in the model: `unmatched` has none, `misshaped` one of another
 * shape.
 */
export type ModuleFit = 'matched' | 'unmatched' | 'misshaped';

/** A group of tensors of a file that belong together, such as the two matrices of a LoRA at one layer. */
export interface SurveyedModule {
  /** As the file spells it. */
  readonly name: string;
  /** Against the model; without one, whether the module is complete in itself. */
  readonly fit: ModuleFit;
  /** Reads its values: whether it changes nothing, whatever its input. */
  isZero(): boolean;
  readonly rank?: number;
  readonly alpha?: number;
}

/** What a file holds. */
export interface Survey {
  readonly modules: readonly SurveyedModule[];
  /** What is passed over, where that is allowed. */
  readonly skipped?: Skipped;
  /** Why the file cannot be loaded, and the way out. */
  readonly refusal?: { readonly reason: string; readonly fix: string };
}

/** Weights by the module they belong to: their names without the last part. */
function byModule(names: Iterable<string>): Map<string, string[]> {
  const modules = new Map<string, string[]>();
  for (const name of names) {
    const module = name.includes('.') ? name.slice(0, name.lastIndexOf('.')) : name;
    const own = modules.get(module);
    if (own) own.push(name);
    else modules.set(module, [name]);
  }
  return modules;
}

/** Modules of `weights` against the shapes that are `wanted`; a module with a wrong tensor is wrong. */
function fitModules(
  weights: Weights,
  wanted: ReadonlyMap<string, Shape> | undefined,
): SurveyedModule[] {
  return [...byModule(weights.names())].map(([name, own]) => {
    const fits = own.map((key): ModuleFit => {
      const want = wanted?.get(key);
      if (!wanted) return 'matched';
      if (!want) return 'unmatched';
      return sameShape(want, weights.entry(key).shape) ? 'matched' : 'misshaped';
    });
    return {
      name,
      fit: fits.includes('misshaped')
        ? 'misshaped'
        : fits.includes('unmatched')
          ? 'unmatched'
          : 'matched',
      isZero: () => own.every((key) => scan(weights.entry(key).load()).zero),
    };
  });
}

/** What of an adapter file fits a model, and what would be passed over if that were allowed. */
export function surveyPart(kind: AdapterKind, file: AdapterFile, model: Model): Survey {
  const whole = surveyAdapter(kind, file, model);
  if (!whole.refusal) return whole;
  const name = 'inspected';
  try {
    const options = checkFile(kind.options, {}, file.path);
    const made = createPartly(kind, { name, file, model }, options);
    const { skipped, adapter } = made;
    const own = kind.survey?.(made.file, model) ?? {
      modules: fitModules(adapter.weights ?? file.weights, undefined),
    };
    const unmatched = skipped.unused.map((key): SurveyedModule => ({
      name: key,
      fit: 'unmatched',
      isZero: () => false,
    }));
    return { ...own, modules: [...own.modules, ...unmatched], skipped };
  } catch (error) {
    if (AttuneError.is(error)) return whole;
    throw error;
  }
}

/** What an adapter file of a kind holds; against `model` where given. */
export function surveyAdapter(kind: AdapterKind, file: AdapterFile, model?: Model): Survey {
  if (kind.survey) return kind.survey(file, model);
  if (!model) return { modules: fitModules(file.weights, undefined) };
  const name = 'inspected';
  try {
    const options = checkFile(kind.options, {}, file.path);
    const { weights, ...bare } = kind.create({ name, file, model }, options);
    const { params } = inventory(compose(model, bare), nominalDims);
    const wanted = new Map(
      [...params.values()].flatMap(({ name: full, shape }) =>
        full.startsWith(`${name}.`) ? [[full.slice(name.length + 1), shape] as const] : [],
      ),
    );
    return judge(weights ?? file.weights, wanted);
  } catch (error) {
    if (!AttuneError.is(error)) throw error;
    const modules = fitModules(file.weights, undefined);
    return {
      modules: modules.map((module) => ({ ...module, fit: 'misshaped' })),
      refusal: {
        reason: `it does not fit the model: ${error.message}`,
        fix: 'use it with the model it was trained for',
      },
    };
  }
}

/** What the parts of a model hold, against what its nets ask for. */
export function surveyNets(model: Model): Survey {
  const { params } = inventory(model, nominalDims);
  return judge(model.weights, new Map([...params].map(([name, { shape }]) => [name, shape])));
}

function judge(weights: Weights, wanted: ReadonlyMap<string, Shape>): Survey {
  const modules = fitModules(weights, wanted);
  const missing = [...wanted.keys()].filter((name) => !weights.has(name));
  const odd = modules.filter(({ fit }) => fit !== 'matched');
  if (missing.length === 0 && odd.length === 0) return { modules };
  const facts = [
    ...(missing.length ? [`${missing.length} weights are missing (first ${missing[0]})`] : []),
    ...(odd.length
      ? [`${odd.length} modules fit no layer or have another shape (first ${odd[0].name})`]
      : []),
  ];
  return {
    modules,
    refusal: {
      reason: facts.join('; '),
      fix: 'take the config that belongs to these weights, or the model they were trained for',
    },
  };
}
