/** A LoRA file module by module, whatever its dialect: what `attune inspect` shows. */

import {
  type AdapterFile,
  type Detection,
  baseFamily,
  inventory,
  type Model,
  type ModuleFit,
  nominalDims,
  scan,
  type Survey,
  type SurveyedModule,
} from '@attune/core';
import type { Shape, WeightEntry } from '@attune/engine';

import { alphas, type Dialect, detectDialect, resolver } from './formats.ts';

/** Relatives of LoRA, by a name that only they have. They are recognised, and not loaded. */
const relatives: readonly (readonly [algorithm: string, dialect: string, sign: RegExp])[] = [
  ['dora', 'kohya', /\.dora_scale$/],
  ['dora', 'peft', /\.lora_magnitude_vector(\.\w+)*$/],
  ['loha', 'kohya', /\.hada_w1_a$/],
  ['lokr', 'kohya', /\.lokr_w[12](_a)?$/],
  ['oft', 'kohya', /\.oft_blocks$/],
  ['lora', 'diffusers before 0.19', /(\.lora|_lora|\.lora_linear_layer)\.(down|up)\.weight$/],
];

/** Whether a file is a LoRA or a relative. */
export function detectLora({ weights }: AdapterFile): Detection | undefined {
  const base = baseFamily(weights);
  const family = base === undefined ? {} : { base };
  for (const [algorithm, dialect, sign] of relatives) {
    const evidence = [...weights.names()].find((name) => sign.test(name));
    if (evidence !== undefined) return { dialect, algorithm, evidence, ...family };
  }
  const found = detectDialect(weights.names());
  if (!found) return undefined;
  const evidence = [...weights.names()].find((name) => found.pattern.test(name));
  return { dialect: found.dialect, algorithm: 'lora', evidence: evidence ?? '', ...family };
}

interface Pair {
  down?: WeightEntry;
  up?: WeightEntry;
}

export function surveyLora(file: AdapterFile, model?: Model): Survey {
  const detected = detectLora(file);
  const spelling = detectDialect(file.weights.names());
  if (!spelling || detected?.algorithm !== 'lora' || detected.dialect !== spelling.dialect)
    return {
      modules: [],
      refusal: {
        reason: `${detected?.algorithm ?? 'it'} (${detected?.dialect ?? 'no known dialect'}) is recognised but not loaded by this version`,
        fix: 'convert it to a plain LoRA with its own trainer',
      },
    };
  const { pairs, strays } = gather(file, spelling);
  const layers = model && layerShapes(model);
  const find = layers && resolver(new Set(layers.keys()), spelling.dialect);
  const alphaOf = alphas(file, spelling.dialect);
  const modules: SurveyedModule[] = [...pairs].map(([name, { down, up }]) => {
    const address = find ? find(name) : name;
    const rank = down?.shape[0];
    return {
      name,
      fit: address === undefined ? 'unmatched' : fitOf(layers?.get(address), down, up),
      zero: [down, up].some((entry) => entry && scan(entry.load()).zero),
      ...(rank === undefined ? {} : { rank, alpha: alphaOf(name, rank) }),
    };
  });
  for (const name of strays) modules.push({ name, fit: 'unmatched', zero: false });
  return { modules, ...refusal(modules, spelling.dialect, model !== undefined) };
}

function gather({ weights }: AdapterFile, { pattern, down }: { pattern: RegExp; down: string }) {
  const pairs = new Map<string, Pair>();
  const rest: string[] = [];
  for (const name of weights.names()) {
    const [, module, matrix] = pattern.exec(name) ?? [];
    if (module === undefined) {
      rest.push(name);
      continue;
    }
    const pair = pairs.get(module) ?? {};
    pair[matrix === down ? 'down' : 'up'] = weights.entry(name);
    pairs.set(module, pair);
  }
  const isAlpha = (name: string) => name.endsWith('.alpha') && pairs.has(name.slice(0, -6));
  return { pairs, strays: rest.filter((name) => !isAlpha(name)) };
}

/** Weights of the layers that a LoRA can act on, by address. */
function layerShapes(model: Model): Map<string, Shape> {
  const { params, sites } = inventory(model, nominalDims);
  return new Map(
    [...sites].flatMap((site) => {
      const address = site.startsWith('layer:') ? site.slice(6) : '';
      const shape = params.get(`${address}.weight`)?.shape;
      return shape && shape.length > 1 ? [[address, shape] as const] : [];
    }),
  );
}

function fitOf(layer: Shape | undefined, down?: WeightEntry, up?: WeightEntry): ModuleFit {
  if (!down || !up || down.shape.length < 2 || down.shape[0] === 0) return 'misshaped';
  const [out, rank, ...kernel] = up.shape;
  if (rank !== down.shape[0] || kernel.some((size) => size !== 1)) return 'misshaped';
  if (!layer) return 'matched';
  const [wantOut, ...wantIn] = layer;
  return out === wantOut && down.shape.slice(1).join() === wantIn.join() ? 'matched' : 'misshaped';
}

function refusal(
  modules: readonly SurveyedModule[],
  dialect: Dialect,
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
