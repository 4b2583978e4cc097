/** A LoRA file module by module, whatever its dialect: what `attune inspect` shows. */

import {
  type AdapterFile,
  baseFamily,
  type Detection,
  inventory,
  layerNames,
  type Model,
  type ModuleFit,
  nominalDims,
  type Survey,
  type SurveyedModule,
} from '@attune/core';
import { AttuneError, input, sameShape, scan, type Shape, type Tensor } from '@attune/engine';

import { algorithms, biases, deltaOf } from './algorithms.ts';
import { magnitudeOf } from './dora.ts';
import { type FileModule, modulesOf, readModule, savedWhole } from './formats.ts';
import { type Dialect, dialectOf, resolver } from './names.ts';
import { scales } from './scale.ts';

/** A relative of LoRA that is recognised and not loaded. */
interface Relative {
  readonly algorithm: string;
  /** A name that only it has. */
  readonly sign: RegExp;
  /** The end of such a name, and the dialect it is written in. */
  readonly leaf: string;
  readonly dialect: Dialect;
}

export const relatives: readonly Relative[] = [
  {
    algorithm: 'oft',
    sign: /\.oft_(blocks|diag|[rR])(\.|$)/,
    leaf: 'oft_blocks',
    dialect: 'kohya',
  },
  { algorithm: 'boft', sign: /\.boft_[Rs](\.|$)/, leaf: 'boft_R', dialect: 'peft' },
  { algorithm: 'glora', sign: /\.[ab][12]\.weight$/, leaf: 'a1.weight', dialect: 'kohya' },
  { algorithm: 'ia3', sign: /\.(on_input|ia3_l(\.\w+)?)$/, leaf: 'on_input', dialect: 'kohya' },
  { algorithm: 'vera', sign: /\.vera_lambda_[bd](\.|$)/, leaf: 'vera_lambda_b', dialect: 'peft' },
  { algorithm: 'hra', sign: /\.hra_u(\.|$)/, leaf: 'hra_u', dialect: 'peft' },
  {
    algorithm: 'lora of an embedding table',
    sign: /\.lora_embedding_[AB](\.|$)/,
    leaf: 'lora_embedding_A',
    dialect: 'peft',
  },
  {
    algorithm: "another of PEFT's kinds",
    sign: /\.(fourierft_spectrum|vblora_\w+|randlora_\w+|(bone|miss)_block|c3a_kernel|road_(theta|alpha)|shira_weight|waveft_spectrum)(\.|$)|(^|\.)prompt_embeddings$/,
    leaf: 'fourierft_spectrum',
    dialect: 'peft',
  },
];

/** Whether a file is a LoRA or a relative. */
export function detectLora({ weights }: AdapterFile): Detection | undefined {
  const names = [...weights.names()];
  const kin = relatives.flatMap(({ algorithm, sign }) => {
    const evidence = names.find((name) => sign.test(name));
    return evidence === undefined ? [] : [{ algorithm, evidence }];
  });
  const { modules } = modulesOf(names);
  const [first] = modules.filter(({ keys }) => [...keys.keys()].some((leaf) => leaf !== 'alpha'));
  if (kin.length === 0 && !first) return undefined;
  const base = baseFamily(weights);
  const family = base === undefined ? {} : { base };
  if (kin.length > 0) {
    const { evidence } = kin[0];
    const dialect = dialectOf(evidence, { module: evidence, old: false });
    return { dialect, ...kin[0], ...family };
  }
  const used = new Set(modules.flatMap(algorithmNames));
  return {
    dialect: [...new Set(modules.map(({ dialect }) => dialect))].join(' + '),
    algorithm: [...used].join(' + ') || 'lora',
    evidence: [...first.keys].find(([leaf]) => leaf !== 'alpha')![1],
    ...family,
  };
}

/** What the tools that wrote it call it. */
function algorithmNames({ algorithm, keys }: FileModule): string[] {
  if (magnitudeOf((leaf) => keys.has(leaf)))
    return [algorithm === 'lora' ? 'dora' : `dora of ${algorithm}`];
  return algorithm === undefined ? [] : [algorithm];
}

export function surveyLora(file: AdapterFile, model?: Model): Survey {
  const detected = detectLora(file);
  if (relatives.some(({ algorithm }) => algorithm === detected?.algorithm))
    return {
      modules: [],
      refusal: {
        reason: `${detected?.algorithm} is recognised but not loaded by this version`,
        fix: 'merge it into its model with what trained it, and take that model as the backbone',
      },
    };
  const { modules: found, strays } = modulesOf(file.weights.names());
  const shapes = model && layerShapes(model);
  const find = model && resolver(layerNames(model));
  const scaleOf = scales(file);
  const modules: SurveyedModule[] = found.map((module) => {
    const address = find ? find(module.name) : module.name;
    const { name, keys, algorithm } = module;
    const scale = algorithm && readModule(file, module, scaleOf);
    return {
      name,
      fit: address === undefined ? 'unmatched' : fitOf(file, module, shapes?.get(address), address),
      isZero: () => algorithm !== undefined && isZero(file, module),
      ...(scale && keys.size ? { rank: scale.rank, alpha: scale.alpha } : {}),
    };
  });
  const whole = savedWhole(strays);
  for (const name of strays) modules.push({ name, fit: 'unmatched', isZero: () => false });
  if (whole) return { modules, refusal: whole };
  return { modules, ...refusal(modules, detected?.dialect ?? '', model !== undefined) };
}

/** Weights of the layers, by address. */
function layerShapes(model: Model): Map<string, Shape> {
  const { params, sites } = inventory(model, nominalDims);
  return new Map(
    [...sites].flatMap((site) => {
      const address = site.startsWith('layer:') ? site.slice(6) : '';
      const shape = params.get(`${address}.weight`)?.shape;
      return shape ? [[address, shape] as const] : [];
    }),
  );
}

/** Whether a module's tensors make a change, and one of the layer's shape: by tracing it. */
function fitOf(
  file: AdapterFile,
  { algorithm, keys }: FileModule,
  layer: Shape | undefined,
  address: string,
): ModuleFit {
  if (algorithm === undefined) return 'misshaped';
  const has = (leaf: string): boolean => keys.has(leaf);
  const part = (leaf: string): Tensor => input(leaf, file.weights.entry(keys.get(leaf)!).shape);
  try {
    const bias = biases.find(has);
    if (bias && layer && !sameShape(part(bias).shape, [layer[0]])) return 'misshaped';
    if (algorithm === 'full' && !has('diff'))
      return !layer || part('diff_b').dim(0) === layer[0] ? 'matched' : 'misshaped';
    if (layer) deltaOf(algorithm, part, has, layer, address);
    else algorithms[algorithm].delta(part, has);
    return 'matched';
  } catch (error) {
    if (AttuneError.is(error)) return 'misshaped';
    throw error;
  }
}

/** Whether nothing comes of it: one factor of each product is zero throughout. */
function isZero(file: AdapterFile, { keys }: FileModule): boolean {
  if (magnitudeOf((leaf) => keys.has(leaf))) return false;
  const zero = (leaf: string): boolean => {
    const key = keys.get(leaf);
    return key !== undefined && scan(file.weights.entry(key).load()).zero;
  };
  const leaves = [...keys.keys()].filter(
    (leaf) => leaf !== 'alpha' && !biases.some((bias) => bias === leaf),
  );
  const shifts = biases.some((leaf) => keys.has(leaf) && !zero(leaf));
  return !shifts && (leaves.length === 0 || leaves.some(zero));
}

function refusal(
  modules: readonly SurveyedModule[],
  dialect: string,
  againstModel: boolean,
): Pick<Survey, 'refusal'> {
  const odd = modules.filter(({ fit }) => fit !== 'matched');
  if (odd.length === 0) return {};
  const { name, fit } = odd[0];
  const what = fit === 'misshaped' ? 'has a shape that does not fit' : 'fits no layer';
  return {
    refusal: {
      reason: `${odd.length} of ${modules.length} ${dialect} modules cannot be used, first ${name}, which ${what}`,
      fix: againstModel
        ? 'use the model (and the adapters before it) that it was trained on'
        : 'check that the file is whole',
    },
  };
}
